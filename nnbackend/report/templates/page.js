(function () {
  "use strict";
  const page = document.documentElement;
  const words = JSON.parse(document.getElementById("words").textContent);
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const config = {
    background: null,
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    axis: {
      labelColor: "currentColor", titleColor: "currentColor", domainColor: "currentColor", tickColor: "currentColor",
      gridColor: "currentColor", gridOpacity: 0.15, domainOpacity: 0.5, tickOpacity: 0.5, labelFontSize: 12,
      titleFontSize: 12, titleFontWeight: "normal", labelLimit: 120,
    },
    legend: { labelColor: "currentColor", titleColor: "currentColor", labelFontSize: 12, labelLimit: 160 },
  };
  let drawn = [];
  let queue = Promise.resolve();

  function inLanguage(value, language) {
    if (Array.isArray(value)) return value.map((part) => inLanguage(part, language));
    if (value === null || typeof value !== "object") return value;
    if (typeof value.word === "string") {
      const text = words[value.word][language === "ja" ? 1 : 0];
      return text.replace(/\{(\w+)\}/g, (_, name) => String(inLanguage(value.values[name], language)));
    }
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, inLanguage(part, language)]));
  }

  async function draw(language) {
    for (const old of drawn) old.finalize();
    drawn = [];
    for (const [id, spec] of Object.entries(charts)) {
      const place = document.getElementById(id);
      const options = { actions: false, renderer: "svg", mode: "vega-lite", config, tooltip: { theme: "custom" } };
      drawn.push(await vegaEmbed(place, inLanguage(spec, language), options));
    }
    page.dataset.drawn = language;
  }

  function choose(language, keep) {
    page.lang = language;
    for (const button of document.querySelectorAll("[data-language]"))
      button.setAttribute("aria-pressed", String(button.dataset.language === language));
    for (const name of ["alt", "aria-label"])
      for (const element of document.querySelectorAll(`[data-${name}-${language}]`))
        element.setAttribute(name, element.getAttribute(`data-${name}-${language}`));
    document.title = document.querySelector("h1").getAttribute(`data-title-${language}`);
    if (keep) try { localStorage.setItem("nnbackend.language", language); } catch { /* a browser may forbid it */ }
    queue = queue.then(() => draw(language));
  }

  document.getElementById("without-scripts").hidden = true;
  let kept = null;
  try { kept = localStorage.getItem("nnbackend.language"); } catch { /* a browser may forbid it */ }
  const wanted = [kept, ...navigator.languages.map((name) => name.slice(0, 2)), page.lang];
  for (const button of document.querySelectorAll("[data-language]"))
    button.addEventListener("click", () => choose(button.dataset.language, true));
  choose(wanted.find((language) => language === "en" || language === "ja"), false);
})();
