/* The loops, once for float and once for double: native.c includes this file with REAL, NAME and SQRT set.
   Nothing is `restrict`: loops over elements may meet arrays that overlap. The updates round where NumPy's kernels do
   with Python's numbers, so that both give the same bits. */

enum { NAME(PIECE) = 512 / sizeof(REAL) };

/* Whether a piece of a gradient is zero, as that of a word is that no row of a batch has: an update that leaves such values
   as they are need not read them. -0 counts as a number, since it changes a -0. */
PART int NAME(is_zero)(const REAL *g)
{
    uint64_t words[NAME(PIECE) * sizeof(REAL) / sizeof(uint64_t)], any = 0;
    if (g[0] != 0) /* as in most gradients */
        return 0;
    memcpy(words, g, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        any |= words[i];
    return !any;
}

/* Fetch the values that come four pieces later. The products of the forward pass have read them on all processors, and to
   take them back one line after the other took a step of 784-256-128-10 (SGD) 4 percent of its time. */
PART void NAME(fetch_later)(const REAL *p)
{
    for (int line = 0; line < 8; line++)
        PREFETCH_TO_WRITE(p + 4 * NAME(PIECE) + line * NAME(PIECE) / 8);
}

VECTORS void NAME(sgd)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    REAL *p = arrays[0];
    const REAL *g = arrays[1];
    const REAL lr = (REAL)numbers[0], decay = (REAL)numbers[1];
    for (Py_ssize_t first = 0; first < n; first += NAME(PIECE), p += NAME(PIECE), g += NAME(PIECE)) {
        const Py_ssize_t size = n - first < NAME(PIECE) ? n - first : NAME(PIECE);
        if (!decay && size == NAME(PIECE) && NAME(is_zero)(g))
            continue;
        NAME(fetch_later)(p);
        for (Py_ssize_t i = 0; i < size; i++)
            p[i] -= lr * (decay ? g[i] + decay * p[i] : g[i]);
    }
}

VECTORS void NAME(momentum)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    REAL *p = arrays[0], *v = arrays[2];
    const REAL *g = arrays[1];
    const REAL lr = (REAL)numbers[0], momentum = (REAL)numbers[1], decay = (REAL)numbers[2];
    for (Py_ssize_t first = 0; first < n; first += NAME(PIECE)) {
        const Py_ssize_t stop = n - first < NAME(PIECE) ? n : first + NAME(PIECE);
        NAME(fetch_later)(p + first);
        for (Py_ssize_t i = first; i < stop; i++) {
            v[i] = momentum * v[i] + (decay ? g[i] + decay * p[i] : g[i]);
            p[i] -= lr * v[i];
        }
    }
}

VECTORS void NAME(nesterov)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    REAL *p = arrays[0], *v = arrays[2];
    const REAL *g = arrays[1];
    const REAL lr = (REAL)numbers[0], momentum = (REAL)numbers[1], decay = (REAL)numbers[2];
    for (Py_ssize_t first = 0; first < n; first += NAME(PIECE)) {
        const Py_ssize_t stop = n - first < NAME(PIECE) ? n : first + NAME(PIECE);
        NAME(fetch_later)(p + first);
        for (Py_ssize_t i = first; i < stop; i++) {
            const REAL d = decay ? g[i] + decay * p[i] : g[i];
            v[i] = momentum * v[i] + d;
            p[i] -= lr * (d + momentum * v[i]);
        }
    }
}

/* h <- alpha h + share g^2: AdaGrad with alpha = share = 1, RMSprop with share = 1 - alpha */
VECTORS void NAME(rmsprop)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    REAL *p = arrays[0], *h = arrays[2];
    const REAL *g = arrays[1];
    const REAL lr = (REAL)numbers[0], alpha = (REAL)numbers[1], share = (REAL)numbers[2];
    const REAL eps = (REAL)numbers[3], decay = (REAL)numbers[4];
    const int adagrad = alpha == 1 && decay == 0 && eps > 0;
    for (Py_ssize_t first = 0; first < n; first += NAME(PIECE), p += NAME(PIECE), g += NAME(PIECE), h += NAME(PIECE)) {
        const Py_ssize_t size = n - first < NAME(PIECE) ? n - first : NAME(PIECE);
        if (adagrad && size == NAME(PIECE) && NAME(is_zero)(g))
            continue;
        NAME(fetch_later)(p);
        for (Py_ssize_t i = 0; i < size; i++) {
            const REAL d = decay ? g[i] + decay * p[i] : g[i];
            h[i] = alpha * h[i] + share * (d * d);
            p[i] -= lr * (d / (SQRT(h[i]) + eps));
        }
    }
}

/* p <- keep p - lr m / (sqrt(v) + eps), the corrections for the first steps being in lr and eps */
VECTORS void NAME(adam)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    REAL *p = arrays[0], *m = arrays[2], *v = arrays[3];
    const REAL *g = arrays[1];
    const REAL lr = (REAL)numbers[0], eps = (REAL)numbers[1], beta1 = (REAL)numbers[2], beta2 = (REAL)numbers[3];
    const REAL rest1 = (REAL)(1.0 - numbers[2]), rest2 = (REAL)(1.0 - numbers[3]);
    const REAL decay = (REAL)numbers[4], keep = (REAL)numbers[5];
    for (Py_ssize_t first = 0; first < n; first += NAME(PIECE)) {
        const Py_ssize_t stop = n - first < NAME(PIECE) ? n : first + NAME(PIECE);
        NAME(fetch_later)(p + first);
        for (Py_ssize_t i = first; i < stop; i++) {
            const REAL d = decay ? g[i] + decay * p[i] : g[i];
            m[i] = beta1 * m[i] + rest1 * d;
            v[i] = beta2 * v[i] + rest2 * (d * d);
            p[i] = keep * p[i] - lr * (m[i] / (SQRT(v[i]) + eps));
        }
    }
}

VECTORS void NAME(relu)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    const REAL *x = arrays[0];
    REAL *y = arrays[1];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i]; /* NaN stays */
}

VECTORS void NAME(relu_backward)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *y = arrays[1];
    REAL *dx = arrays[2];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++)
        dx[i] = y[i] > 0 ? dy[i] : 0;
}

VECTORS void NAME(masked)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    const REAL *x = arrays[0], *mask = arrays[1];
    REAL *y = arrays[2];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++)
        y[i] = x[i] * mask[i];
}

VECTORS void NAME(leaky_relu)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    const REAL *x = arrays[0], alpha = (REAL)numbers[0];
    REAL *y = arrays[1];
    for (Py_ssize_t i = 0; i < n; i++)
        y[i] = x[i] > alpha * x[i] ? x[i] : alpha * x[i];
}

VECTORS void NAME(leaky_relu_backward)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *y = arrays[1], alpha = (REAL)numbers[0];
    REAL *dx = arrays[2];
    for (Py_ssize_t i = 0; i < n; i++)
        dx[i] = y[i] > 0 ? dy[i] : alpha * dy[i];
}

PART REAL NAME(exp)(REAL x)
{
    REAL power;
    const REAL rest = NAME(exp_parts)(x, &power);
    return (1 + rest) * power;
}

/* x <- e^x, for x of at most 0 */
PART void NAME(exp_lanes)(REAL *x, Py_ssize_t lanes)
{
    for (Py_ssize_t lane = 0; lane < lanes; lane++) /* apart from the next loop, or the compiler doubles all of it */
        x[lane] = x[lane] < NAME(LEAST) ? NAME(LEAST) : x[lane];
    for (Py_ssize_t lane = 0; lane < lanes; lane++)
        x[lane] = NAME(exp)(x[lane]);
}

enum { NAME(LANES) = 64 }; /* elements that stay in the first cache */

/* x <- 1 / (1 + e^-x), for negative x as e^x / (1 + e^x); at most LANES of them */
PART void NAME(sigmoid_lanes)(REAL *x, Py_ssize_t lanes)
{
    REAL e[NAME(LANES)];
    for (Py_ssize_t lane = 0; lane < lanes; lane++)
        e[lane] = x[lane] < 0 ? x[lane] : -x[lane];
    NAME(exp_lanes)(e, lanes);
    for (Py_ssize_t lane = 0; lane < lanes; lane++)
        x[lane] = (x[lane] < 0 ? e[lane] : 1) / (1 + e[lane]);
}

/* x <- tanh x, by e = e^(-2 |x|) - 1 as -e / (2 + e), which is exact near 0, too */
PART void NAME(tanh_lanes)(REAL *x, Py_ssize_t lanes)
{
    REAL e[NAME(LANES)];
    for (Py_ssize_t lane = 0; lane < lanes; lane++)
        e[lane] = x[lane] < 0 ? 2 * x[lane] : -2 * x[lane];
    for (Py_ssize_t lane = 0; lane < lanes; lane++)
        e[lane] = e[lane] < NAME(LEAST) ? NAME(LEAST) : e[lane];
    for (Py_ssize_t lane = 0; lane < lanes; lane++) {
        REAL power;
        const REAL rest = NAME(exp_parts)(e[lane], &power);
        e[lane] = (power - 1) + power * rest;
    }
    for (Py_ssize_t lane = 0; lane < lanes; lane++) {
        const REAL y = e[lane] / (2 + e[lane]);
        x[lane] = x[lane] < 0 ? y : -y;
    }
}

VECTORS void NAME(sigmoid)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    (void)numbers;
    for (Py_ssize_t first = 0; first < n; first += NAME(LANES)) {
        const Py_ssize_t lanes = n - first < NAME(LANES) ? n - first : NAME(LANES);
        const REAL *x = (const REAL *)arrays[0] + first;
        REAL y[NAME(LANES)];
        memcpy(y, x, (size_t)lanes * sizeof(REAL));
        NAME(sigmoid_lanes)(y, lanes);
        memcpy((REAL *)arrays[1] + first, y, (size_t)lanes * sizeof(REAL));
    }
}

VECTORS void NAME(sigmoid_backward)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *y = arrays[1];
    REAL *dx = arrays[2];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++)
        dx[i] = dy[i] * y[i] * (1 - y[i]);
}

/* functions/activations.py says why x is cut at these ends. NaN stays as it is. */
PART REAL NAME(from)(REAL x, REAL least)
{
    return x < least ? least : x;
}

PART REAL NAME(within)(REAL x, REAL end)
{
    return x < -end ? -end : x > end ? end : x;
}

enum { NAME(GELU_END) = 20, NAME(SILU_END) = 20000 };

/* u <- the tanh of GELU, at most LANES of them */
PART void NAME(gelu_lanes)(const REAL *x, REAL *u, Py_ssize_t lanes)
{
    for (Py_ssize_t lane = 0; lane < lanes; lane++) {
        const REAL w = NAME(within)(x[lane], NAME(GELU_END));
        u[lane] = (REAL)0.7978845608028654 * (w + (REAL)0.044715 * w * w * w);
    }
    NAME(tanh_lanes)(u, lanes);
}

VECTORS void NAME(gelu)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    (void)numbers;
    for (Py_ssize_t first = 0; first < n; first += NAME(LANES)) {
        const Py_ssize_t lanes = n - first < NAME(LANES) ? n - first : NAME(LANES);
        const REAL *x = (const REAL *)arrays[0] + first;
        REAL u[NAME(LANES)], *y = (REAL *)arrays[1] + first;
        NAME(gelu_lanes)(x, u, lanes);
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            y[lane] = (REAL)0.5 * NAME(from)(x[lane], -NAME(GELU_END)) * (1 + u[lane]);
    }
}

VECTORS void NAME(gelu_backward)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    (void)numbers;
    for (Py_ssize_t first = 0; first < n; first += NAME(LANES)) {
        const Py_ssize_t lanes = n - first < NAME(LANES) ? n - first : NAME(LANES);
        const REAL *dy = (const REAL *)arrays[0] + first, *x = (const REAL *)arrays[1] + first;
        REAL u[NAME(LANES)], *dx = (REAL *)arrays[2] + first;
        NAME(gelu_lanes)(x, u, lanes);
        for (Py_ssize_t lane = 0; lane < lanes; lane++) {
            const REAL w = NAME(within)(x[lane], NAME(GELU_END));
            const REAL slope = (REAL)0.7978845608028654 * (1 + (REAL)(3 * 0.044715) * w * w);
            dx[lane] = dy[lane] * ((REAL)0.5 * (1 + u[lane]) + (REAL)0.5 * w * (1 - u[lane] * u[lane]) * slope);
        }
    }
}

VECTORS void NAME(silu)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    (void)numbers;
    for (Py_ssize_t first = 0; first < n; first += NAME(LANES)) {
        const Py_ssize_t lanes = n - first < NAME(LANES) ? n - first : NAME(LANES);
        const REAL *x = (const REAL *)arrays[0] + first;
        REAL s[NAME(LANES)], *y = (REAL *)arrays[1] + first;
        memcpy(s, x, (size_t)lanes * sizeof(REAL));
        NAME(sigmoid_lanes)(s, lanes);
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            y[lane] = NAME(from)(x[lane], -NAME(SILU_END)) * s[lane];
    }
}

VECTORS void NAME(silu_backward)(Py_ssize_t n, void *const *arrays, const double *numbers)
{
    (void)numbers;
    for (Py_ssize_t first = 0; first < n; first += NAME(LANES)) {
        const Py_ssize_t lanes = n - first < NAME(LANES) ? n - first : NAME(LANES);
        const REAL *dy = (const REAL *)arrays[0] + first, *x = (const REAL *)arrays[1] + first;
        REAL s[NAME(LANES)], *dx = (REAL *)arrays[2] + first;
        memcpy(s, x, (size_t)lanes * sizeof(REAL));
        NAME(sigmoid_lanes)(s, lanes);
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            dx[lane] = dy[lane] * s[lane] * (1 + NAME(within)(x[lane], NAME(SILU_END)) * (1 - s[lane]));
    }
}

/* Philox4x32-10, as in functions/philox.py: every counter is worth four words, each word an element */
VECTORS void NAME(dropout_mask)(Py_ssize_t first, Py_ssize_t stop, void *out, const double *numbers)
{
    REAL *mask = out;
    const uint32_t limit = (uint32_t)numbers[4];
    const REAL scale = (REAL)numbers[5];
    for (; first < stop; first += 4 * LANES) {
        Words words;
        REAL values[4 * LANES];
        philox(&words, first, numbers);
        for (int lane = 0; lane < LANES; lane++)
            for (int word = 0; word < 4; word++)
                values[4 * lane + word] = words.w[word][lane] >> 8 >= limit ? scale : 0;
        const Py_ssize_t left = stop - first < 4 * LANES ? stop - first : 4 * LANES;
        memcpy(mask + first, values, (size_t)left * sizeof(REAL));
    }
}

/* out <- numbers that are even on [0, 1) */
VECTORS void NAME(uniform)(Py_ssize_t first, Py_ssize_t stop, void *out, const double *numbers)
{
    for (; first < stop; first += 4 * LANES) {
        Words words;
        REAL values[4 * LANES];
        philox(&words, first, numbers);
        for (int lane = 0; lane < LANES; lane++)
            for (int word = 0; word < 4; word++)
                values[4 * lane + word] = (REAL)(int32_t)(words.w[word][lane] >> 8) * (REAL)0x1p-24;
        const Py_ssize_t left = stop - first < 4 * LANES ? stop - first : 4 * LANES;
        memcpy((REAL *)out + first, values, (size_t)left * sizeof(REAL));
    }
}

/* Of the pixel (i, j) of an image, or what is seen outside of it. i, j: whole numbers, of any size, or NaN */
PART REAL NAME(seen)(const Resampling *job, const REAL *image, REAL i, REAL j)
{
    return i >= 0 && i < job->h && j >= 0 && j < job->w ? image[((Py_ssize_t)i * job->w + (Py_ssize_t)j) * job->c]
                                                        : (REAL)job->fill;
}

VECTORS void NAME(resample)(const Resampling *job)
{
    const Py_ssize_t points = job->points, c = job->c, line = job->w * c;
    const REAL last_row = (REAL)(job->h - 1), last_column = (REAL)(job->w - 1);
    for (Py_ssize_t n = 0; n < job->n; n++) {
        const REAL *image = (const REAL *)job->x + n * job->h * line;
        const REAL *rows = (const REAL *)job->rows + n * points, *columns = (const REAL *)job->columns + n * points;
        REAL *y = (REAL *)job->y + n * points * c;
        for (Py_ssize_t k = 0; k < points; k++, y += c) {
            const REAL top = FLOOR(rows[k]), left = FLOOR(columns[k]), below = rows[k] - top, right = columns[k] - left;
            const REAL w00 = (1 - below) * (1 - right), w01 = (1 - below) * right;
            const REAL w10 = below * (1 - right), w11 = below * right;
            if (top >= 0 && top < last_row && left >= 0 && left < last_column) {
                const REAL *x = image + (Py_ssize_t)top * line + (Py_ssize_t)left * c;
                for (Py_ssize_t e = 0; e < c; e++)
                    y[e] = w00 * x[e] + w01 * x[e + c] + w10 * x[e + line] + w11 * x[e + line + c];
            } else {
                for (Py_ssize_t e = 0; e < c; e++)
                    y[e] = w00 * NAME(seen)(job, image + e, top, left) + w01 * NAME(seen)(job, image + e, top, left + 1) +
                           w10 * NAME(seen)(job, image + e, top + 1, left) +
                           w11 * NAME(seen)(job, image + e, top + 1, left + 1);
            }
        }
    }
}

/* y <- y + b, for every row of y */
VECTORS void NAME(add_bias)(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    REAL *y = arrays[0];
    const REAL *b = arrays[1];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++, y += columns)
        for (Py_ssize_t c = 0; c < columns; c++)
            y[c] += b[c];
}

/* db <- the sum of the rows of dy */
VECTORS void NAME(sum_rows)(
    Py_ssize_t n, Py_ssize_t line, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0];
    REAL *db = arrays[1];
    (void)numbers;
    memset(db, 0, (size_t)columns * sizeof(REAL));
    for (Py_ssize_t i = 0; i < n; i++, dy += line)
        for (Py_ssize_t c = 0; c < columns; c++)
            db[c] += dy[c];
}

/* The steps of recurrent networks, as functions/recurrent.py defines them: columns `from` to `to` of n rows of h. Arrays
   come in the order of the arguments of `lstm_gates` and its like in native.c. Without r, a has it already. */
VECTORS void NAME(rnn_step)(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays)
{
    const REAL *a = arrays[0];
    REAL *hidden = arrays[1];
    for (Py_ssize_t row = 0; row < n; row++, a += h, hidden += h)
        for (Py_ssize_t first = from; first < to; first += NAME(LANES)) {
            const Py_ssize_t lanes = to - first < NAME(LANES) ? to - first : NAME(LANES);
            REAL y[NAME(LANES)];
            memcpy(y, a + first, (size_t)lanes * sizeof(REAL));
            NAME(tanh_lanes)(y, lanes);
            memcpy(hidden + first, y, (size_t)lanes * sizeof(REAL));
        }
}

VECTORS void NAME(rnn_step_backward)(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays)
{
    const REAL *dh = arrays[0], *hidden = arrays[1];
    REAL *da = arrays[2];
    for (Py_ssize_t row = 0; row < n; row++, dh += h, hidden += h, da += h)
        for (Py_ssize_t j = from; j < to; j++)
            da[j] = dh[j] * (1 - hidden[j] * hidden[j]);
}

VECTORS void NAME(lstm_gates)(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays)
{
    const REAL *a = arrays[0], *r = arrays[1], *c = arrays[2];
    REAL *gates = arrays[3], *c_next = arrays[4], *hidden = arrays[5];
    for (Py_ssize_t row = 0; row < n; row++, a += 4 * h, r += r ? 4 * h : 0, gates += 4 * h, c += h, c_next += h, hidden += h)
        for (Py_ssize_t first = from; first < to; first += NAME(LANES)) {
            const Py_ssize_t lanes = to - first < NAME(LANES) ? to - first : NAME(LANES);
            REAL part[4][NAME(LANES)], t[NAME(LANES)];
            for (int k = 0; k < 4; k++)
                for (Py_ssize_t lane = 0; lane < lanes; lane++)
                    part[k][lane] = a[k * h + first + lane] + (r ? r[k * h + first + lane] : 0);
            NAME(sigmoid_lanes)(part[0], lanes);
            NAME(tanh_lanes)(part[1], lanes);
            NAME(sigmoid_lanes)(part[2], lanes);
            NAME(sigmoid_lanes)(part[3], lanes);
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                t[lane] = part[0][lane] * c[first + lane] + part[2][lane] * part[1][lane];
            memcpy(c_next + first, t, (size_t)lanes * sizeof(REAL));
            NAME(tanh_lanes)(t, lanes);
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                hidden[first + lane] = part[3][lane] * t[lane];
            for (int k = 0; k < 4; k++)
                memcpy(gates + k * h + first, part[k], (size_t)lanes * sizeof(REAL));
        }
}

VECTORS void NAME(lstm_gates_backward)(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays)
{
    const REAL *dh = arrays[0], *dc = arrays[1], *gates = arrays[2], *c = arrays[3], *c_next = arrays[4];
    REAL *da = arrays[5], *dc_before = arrays[6];
    for (Py_ssize_t row = 0; row < n; row++) {
        for (Py_ssize_t first = from; first < to; first += NAME(LANES)) {
            const Py_ssize_t lanes = to - first < NAME(LANES) ? to - first : NAME(LANES);
            REAL t[NAME(LANES)], past[NAME(LANES)]; /* dc and dc_before may be one array */
            memcpy(t, c_next + first, (size_t)lanes * sizeof(REAL));
            memcpy(past, dc + first, (size_t)lanes * sizeof(REAL));
            NAME(tanh_lanes)(t, lanes);
            for (Py_ssize_t lane = 0; lane < lanes; lane++) {
                const Py_ssize_t j = first + lane;
                const REAL f = gates[j], g = gates[h + j], i = gates[2 * h + j], o = gates[3 * h + j];
                const REAL change = past[lane] + dh[j] * o * (1 - t[lane] * t[lane]);
                const REAL last = dh[j] * t[lane] * o * (1 - o);
                da[j] = change * c[j] * f * (1 - f);
                da[h + j] = change * i * (1 - g * g);
                da[2 * h + j] = change * g * i * (1 - i);
                da[3 * h + j] = last;
                past[lane] = change * f;
            }
            memcpy(dc_before + first, past, (size_t)lanes * sizeof(REAL));
        }
        dh += h, dc += h, gates += 4 * h, c += h, c_next += h, da += 4 * h, dc_before += h;
    }
}

VECTORS void NAME(gru_gates)(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays)
{
    const REAL *a = arrays[0], *r = arrays[1], *bh = arrays[2], *before = arrays[3];
    REAL *gates = arrays[4], *after = arrays[5];
    for (Py_ssize_t row = 0; row < n; row++, a += 3 * h, r += 3 * h, gates += 4 * h, before += h, after += h)
        for (Py_ssize_t first = from; first < to; first += NAME(LANES)) {
            const Py_ssize_t lanes = to - first < NAME(LANES) ? to - first : NAME(LANES);
            REAL part[4][NAME(LANES)];
            for (int k = 0; k < 2; k++) {
                for (Py_ssize_t lane = 0; lane < lanes; lane++)
                    part[k][lane] = a[k * h + first + lane] + r[k * h + first + lane];
                NAME(sigmoid_lanes)(part[k], lanes);
            }
            for (Py_ssize_t lane = 0; lane < lanes; lane++) {
                part[3][lane] = r[2 * h + first + lane] + bh[first + lane];
                part[2][lane] = a[2 * h + first + lane] + part[0][lane] * part[3][lane];
            }
            NAME(tanh_lanes)(part[2], lanes);
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                after[first + lane] = part[2][lane] + part[1][lane] * (before[first + lane] - part[2][lane]);
            for (int k = 0; k < 4; k++)
                memcpy(gates + k * h + first, part[k], (size_t)lanes * sizeof(REAL));
        }
}

VECTORS void NAME(gru_gates_backward)(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays)
{
    const REAL *dh = arrays[0], *gates = arrays[1], *before = arrays[2];
    REAL *da = arrays[3], *dr = arrays[4], *past = arrays[5];
    for (Py_ssize_t row = 0; row < n; row++) {
        for (Py_ssize_t j = from; j < to; j++) {
            const REAL r = gates[j], z = gates[h + j], fresh = gates[2 * h + j], u = gates[3 * h + j];
            const REAL dn = dh[j] * (1 - z) * (1 - fresh * fresh);
            const REAL reset = dn * u * r * (1 - r), update = dh[j] * (before[j] - fresh) * z * (1 - z);
            const REAL kept = dh[j] * z;
            da[j] = dr[j] = reset;
            da[h + j] = dr[h + j] = update;
            da[2 * h + j] = dn;
            dr[2 * h + j] = dn * r;
            past[j] += kept;
        }
        dh += h, gates += 4 * h, before += h, da += 3 * h, dr += 3 * h, past += h;
    }
}

/* dW <- for every id, the sum of its rows of dy, (n, columns), in their order */
VECTORS void NAME(sum_by_id)(Py_ssize_t n, Py_ssize_t columns, const REAL *dy, const int64_t *ids, REAL *dW)
{
    for (Py_ssize_t i = 0; i < n; i++, dy += columns) {
        REAL *row = dW + ids[i] * columns;
        for (Py_ssize_t c = 0; c < columns; c++)
            row[c] += dy[c];
    }
}

/* Sums side by side, so that their order does not depend on the vectors. They are added up in double precision, after so
   many elements: a mean far from 0 would lose the digits that the differences from it need. */
enum { NAME(SUMS) = 64 / sizeof(REAL), NAME(TOGETHER) = 1024 };

PART double NAME(short_sum)(Py_ssize_t n, const REAL *x)
{
    REAL sums[NAME(SUMS)] = {0};
    double sum = 0;
    Py_ssize_t i = 0;
    for (; i + NAME(SUMS) <= n; i += NAME(SUMS))
        for (int lane = 0; lane < NAME(SUMS); lane++)
            sums[lane] += x[i + lane];
    for (; i < n; i++)
        sum += x[i];
    for (int lane = 0; lane < NAME(SUMS); lane++)
        sum += sums[lane];
    return sum;
}

PART double NAME(sum)(Py_ssize_t n, const REAL *x)
{
    double sum = 0;
    for (Py_ssize_t i = 0; i < n; i += NAME(TOGETHER))
        sum += NAME(short_sum)(n - i < NAME(TOGETHER) ? n - i : NAME(TOGETHER), x + i);
    return sum;
}

PART double NAME(short_dot)(Py_ssize_t n, const REAL *x, const REAL *y)
{
    REAL sums[NAME(SUMS)] = {0};
    double sum = 0;
    Py_ssize_t i = 0;
    for (; i + NAME(SUMS) <= n; i += NAME(SUMS))
        for (int lane = 0; lane < NAME(SUMS); lane++)
            sums[lane] += x[i + lane] * y[i + lane];
    for (; i < n; i++)
        sum += x[i] * y[i];
    for (int lane = 0; lane < NAME(SUMS); lane++)
        sum += sums[lane];
    return sum;
}

/* The sum of x y */
PART double NAME(dot)(Py_ssize_t n, const REAL *x, const REAL *y)
{
    double sum = 0;
    for (Py_ssize_t i = 0; i < n; i += NAME(TOGETHER))
        sum += NAME(short_dot)(n - i < NAME(TOGETHER) ? n - i : NAME(TOGETHER), x + i, y + i);
    return sum;
}

PART REAL NAME(largest)(Py_ssize_t n, const REAL *x)
{
    REAL most[NAME(SUMS)], largest = x[0];
    Py_ssize_t i = 0;
    for (int lane = 0; lane < NAME(SUMS); lane++)
        most[lane] = largest;
    for (; i + NAME(SUMS) <= n; i += NAME(SUMS))
        for (int lane = 0; lane < NAME(SUMS); lane++)
            most[lane] = x[i + lane] > most[lane] ? x[i + lane] : most[lane];
    for (; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    for (int lane = 0; lane < NAME(SUMS); lane++)
        largest = most[lane] > largest ? most[lane] : largest;
    return largest;
}

/* y <- softmax(x) of n rows; with labels t, their losses. Short rows go through the exponential together. */
PART void NAME(softmax_of)(
    Py_ssize_t n, Py_ssize_t classes, const REAL *x, REAL *y, const int64_t *t, double *losses)
{
    const Py_ssize_t together = 1 + 1024 / classes;
    for (Py_ssize_t first = 0; first < n; first += together) {
        const Py_ssize_t rows = n - first < together ? n - first : together;
        for (Py_ssize_t i = 0; i < rows; i++) {
            const REAL *from = x + (first + i) * classes, largest = NAME(largest)(classes, from);
            REAL *to = y + (first + i) * classes;
            for (Py_ssize_t c = 0; c < classes; c++)
                to[c] = from[c] - largest;
            if (t)
                losses[first + i] = -to[t[first + i]];
        }
        NAME(exp_lanes)(y + first * classes, rows * classes);
        for (Py_ssize_t i = 0; i < rows; i++) {
            REAL *to = y + (first + i) * classes;
            const REAL sum = (REAL)NAME(sum)(classes, to);
            for (Py_ssize_t c = 0; c < classes; c++)
                to[c] /= sum;
            if (t)
                losses[first + i] += NAME(log)(sum);
        }
    }
}

/* Loops over n rows of so many columns: the arrays come in the order of their Python function. */
VECTORS void NAME(softmax)(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    (void)numbers;
    NAME(softmax_of)(n, columns, arrays[0], arrays[1], NULL, NULL);
}

VECTORS void NAME(softmax_backward)(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *y = arrays[1];
    REAL *dx = arrays[2];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++, dy += columns, y += columns, dx += columns) {
        const REAL sum = (REAL)NAME(dot)(columns, dy, y);
        for (Py_ssize_t c = 0; c < columns; c++)
            dx[c] = y[c] * (dy[c] - sum);
    }
}

VECTORS void NAME(layer_normalization)(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *x = arrays[0], *gamma = arrays[1], *beta = arrays[2], eps = (REAL)numbers[0];
    REAL *y = arrays[3], *x_hat = arrays[4], *scale = arrays[5];
    const double count = (double)columns;
    for (Py_ssize_t i = 0; i < n; i++, x += columns, y += columns, x_hat += columns) {
        const REAL mean = (REAL)(NAME(sum)(columns, x) / count);
        for (Py_ssize_t c = 0; c < columns; c++)
            x_hat[c] = x[c] - mean;
        scale[i] = 1 / SQRT((REAL)(NAME(dot)(columns, x_hat, x_hat) / count) + eps);
        for (Py_ssize_t c = 0; c < columns; c++) {
            x_hat[c] *= scale[i];
            y[c] = gamma[c] * x_hat[c] + beta[c];
        }
    }
}

VECTORS void NAME(layer_normalization_backward)(
    Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *x_hat = arrays[1], *gamma = arrays[2], *scale = arrays[3];
    REAL *dx = arrays[4];
    const double count = (double)columns;
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++, dy += columns, x_hat += columns, dx += columns) {
        for (Py_ssize_t c = 0; c < columns; c++)
            dx[c] = gamma[c] * dy[c];
        const REAL mean = (REAL)(NAME(sum)(columns, dx) / count);
        const REAL slope = (REAL)(NAME(dot)(columns, dx, x_hat) / count);
        for (Py_ssize_t c = 0; c < columns; c++)
            dx[c] = scale[i] * (dx[c] - mean - x_hat[c] * slope);
    }
}

/* dgamma <- the sums of dy x_hat, dbeta <- of dy, of n rows that lie `line` elements apart */
VECTORS void NAME(normalization_sums)(
    Py_ssize_t n, Py_ssize_t line, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *x_hat = arrays[1];
    REAL *dgamma = arrays[2], *dbeta = arrays[3];
    (void)numbers;
    memset(dgamma, 0, (size_t)columns * sizeof(REAL));
    memset(dbeta, 0, (size_t)columns * sizeof(REAL));
    for (Py_ssize_t i = 0; i < n; i++, dy += line, x_hat += line)
        for (Py_ssize_t c = 0; c < columns; c++) {
            dgamma[c] += dy[c] * x_hat[c];
            dbeta[c] += dy[c];
        }
}

/* Batch normalisation of channels whose `columns` elements lie side by side */
VECTORS void NAME(batch_normalization)(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *x = arrays[0], *gamma = arrays[1], *beta = arrays[2], eps = (REAL)numbers[0];
    REAL *y = arrays[3], *x_hat = arrays[4], *scale = arrays[5], *mean = arrays[6], *var = arrays[7];
    for (Py_ssize_t i = 0; i < n; i++, x += columns, y += columns, x_hat += columns) {
        mean[i] = (REAL)(NAME(sum)(columns, x) / (double)columns);
        for (Py_ssize_t c = 0; c < columns; c++)
            x_hat[c] = x[c] - mean[i];
        var[i] = (REAL)(NAME(dot)(columns, x_hat, x_hat) / (double)columns);
        scale[i] = 1 / SQRT(var[i] + eps);
        for (Py_ssize_t c = 0; c < columns; c++) {
            x_hat[c] *= scale[i];
            y[c] = gamma[i] * x_hat[c] + beta[i];
        }
    }
}

VECTORS void NAME(batch_normalization_backward)(
    Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *dy = arrays[0], *x_hat = arrays[1], *gamma = arrays[2], *scale = arrays[3], count = (REAL)columns;
    REAL *dx = arrays[4], *dgamma = arrays[5], *dbeta = arrays[6];
    (void)numbers;
    for (Py_ssize_t i = 0; i < n; i++, dy += columns, x_hat += columns, dx += columns) {
        dgamma[i] = (REAL)NAME(dot)(columns, dy, x_hat);
        dbeta[i] = (REAL)NAME(sum)(columns, dy);
        const REAL factor = gamma[i] * scale[i], mean = dbeta[i] / count, slope = dgamma[i] / count;
        for (Py_ssize_t c = 0; c < columns; c++)
            dx[c] = factor * (dy[c] - mean - x_hat[c] * slope);
    }
}

/* sums <- those of x - less, or of their products with y, over n rows that lie `line` elements apart */
PART void NAME(sums_of_columns)(
    Py_ssize_t n, Py_ssize_t line, Py_ssize_t lanes, const REAL *x, const REAL *less, const REAL *y, double *sums)
{
    enum { PIECE = 256 };
    for (Py_ssize_t lane = 0; lane < lanes; lane++)
        sums[lane] = 0;
    for (Py_ssize_t first = 0; first < n; first += PIECE) {
        const Py_ssize_t rows = n - first < PIECE ? n - first : PIECE;
        REAL part[NAME(LANES)] = {0};
        for (Py_ssize_t i = 0; i < rows; i++, x += line) {
            if (y) {
                for (Py_ssize_t lane = 0; lane < lanes; lane++)
                    part[lane] += x[lane] * y[lane];
                y += line;
            } else if (less)
                for (Py_ssize_t lane = 0; lane < lanes; lane++)
                    part[lane] += (x[lane] - less[lane]) * (x[lane] - less[lane]);
            else
                for (Py_ssize_t lane = 0; lane < lanes; lane++)
                    part[lane] += x[lane];
        }
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            sums[lane] += part[lane];
    }
}

/* The same where the channels are columns */
VECTORS void NAME(batch_normalization_columns)(
    Py_ssize_t n, Py_ssize_t line, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL eps = (REAL)numbers[0];
    for (Py_ssize_t first = 0; first < columns; first += NAME(LANES)) {
        const Py_ssize_t lanes = columns - first < NAME(LANES) ? columns - first : NAME(LANES);
        const REAL *x = (const REAL *)arrays[0] + first, *gamma = (const REAL *)arrays[1] + first;
        const REAL *beta = (const REAL *)arrays[2] + first;
        REAL *y = (REAL *)arrays[3] + first, *x_hat = (REAL *)arrays[4] + first, *scale = (REAL *)arrays[5] + first;
        REAL *mean = (REAL *)arrays[6] + first, *var = (REAL *)arrays[7] + first;
        double sums[NAME(LANES)];
        NAME(sums_of_columns)(n, line, lanes, x, NULL, NULL, sums);
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            mean[lane] = (REAL)(sums[lane] / (double)n);
        NAME(sums_of_columns)(n, line, lanes, x, mean, NULL, sums);
        for (Py_ssize_t lane = 0; lane < lanes; lane++) {
            var[lane] = (REAL)(sums[lane] / (double)n);
            scale[lane] = 1 / SQRT(var[lane] + eps);
        }
        for (Py_ssize_t i = 0; i < n; i++, x += line, y += line, x_hat += line)
            for (Py_ssize_t lane = 0; lane < lanes; lane++) {
                const REAL normal = (x[lane] - mean[lane]) * scale[lane];
                x_hat[lane] = normal;
                y[lane] = gamma[lane] * normal + beta[lane];
            }
    }
}

VECTORS void NAME(batch_normalization_backward_columns)(
    Py_ssize_t n, Py_ssize_t line, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL count = (REAL)n;
    (void)numbers;
    for (Py_ssize_t first = 0; first < columns; first += NAME(LANES)) {
        const Py_ssize_t lanes = columns - first < NAME(LANES) ? columns - first : NAME(LANES);
        const REAL *dy = (const REAL *)arrays[0] + first, *x_hat = (const REAL *)arrays[1] + first;
        const REAL *gamma = (const REAL *)arrays[2] + first, *scale = (const REAL *)arrays[3] + first;
        REAL *dx = (REAL *)arrays[4] + first, *dgamma = (REAL *)arrays[5] + first, *dbeta = (REAL *)arrays[6] + first;
        REAL factor[NAME(LANES)], mean[NAME(LANES)], slope[NAME(LANES)];
        double sums[NAME(LANES)], products[NAME(LANES)];
        NAME(sums_of_columns)(n, line, lanes, dy, NULL, NULL, sums);
        NAME(sums_of_columns)(n, line, lanes, dy, NULL, x_hat, products);
        for (Py_ssize_t lane = 0; lane < lanes; lane++) {
            dbeta[lane] = (REAL)sums[lane];
            dgamma[lane] = (REAL)products[lane];
            factor[lane] = gamma[lane] * scale[lane];
            mean[lane] = dbeta[lane] / count;
            slope[lane] = dgamma[lane] / count;
        }
        for (Py_ssize_t i = 0; i < n; i++, dy += line, x_hat += line, dx += line)
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                dx[lane] = factor[lane] * (dy[lane] - mean[lane] - x_hat[lane] * slope[lane]);
    }
}

VECTORS void NAME(softmax_cross_entropy)(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    (void)numbers;
    NAME(softmax_of)(n, columns, arrays[0], arrays[2], arrays[1], arrays[3]);
}

/* dx <- (y - one_hot(t)) / `count` */
PART void NAME(to_gradient)(
    Py_ssize_t n, Py_ssize_t classes, const REAL *y, const int64_t *t, REAL *dx, REAL count)
{
    for (Py_ssize_t i = 0; i < n; i++, y += classes, dx += classes) {
        const REAL right = (y[t[i]] - 1) / count;
        for (Py_ssize_t c = 0; c < classes; c++)
            dx[c] = y[c] / count;
        dx[t[i]] = right;
    }
}

VECTORS void NAME(softmax_cross_entropy_backward)(
    Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    NAME(to_gradient)(n, columns, arrays[0], arrays[1], arrays[2], (REAL)numbers[0]);
}

/* Is the largest element of a row, or its first NaN, at `label`? Of equal ones the first counts. */
PART int NAME(is_largest)(Py_ssize_t classes, const REAL *x, Py_ssize_t label)
{
    const REAL it = x[label];
    int others = 0;
    if (it != it)
        for (Py_ssize_t c = 0; c < label; c++)
            others |= x[c] != x[c];
    else {
        for (Py_ssize_t c = 0; c < label; c++)
            others |= !(x[c] < it);
        for (Py_ssize_t c = label + 1; c < classes; c++)
            others |= !(x[c] <= it);
    }
    return !others;
}

/* correct: (n,), 1 or 0 */
VECTORS void NAME(softmax_cross_entropy_recorded)(
    Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers)
{
    const REAL *x = arrays[0];
    const int64_t *t = arrays[1];
    REAL *dx = arrays[2];
    double *correct = arrays[4];
    NAME(softmax_of)(n, columns, x, dx, t, arrays[3]);
    for (Py_ssize_t i = 0; i < n; i++)
        correct[i] = NAME(is_largest)(columns, x + i * columns, t[i]);
    NAME(to_gradient)(n, columns, dx, t, dx, (REAL)numbers[0]);
}

/* losses <- those of rows with the logits y + dx w, an outer product. y: (classes, n), with `apart` elements from one
   class to the next; dx, t, losses: (n,); w: (classes,) */
VECTORS void NAME(outer_losses)(
    Py_ssize_t n, Py_ssize_t classes, Py_ssize_t apart, const REAL *y, const REAL *dx, const REAL *w, const int64_t *t,
    REAL *losses)
{
    enum { LANES = 64 }; /* rows that stay in the first cache */
    for (Py_ssize_t first = 0; first < n; first += LANES, y += LANES, dx += LANES, t += LANES, losses += LANES) {
        const Py_ssize_t lanes = n - first < LANES ? n - first : LANES;
        REAL largest[LANES], sum[LANES] = {0}, e[LANES];
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            largest[lane] = y[lane] + dx[lane] * w[0];
        for (Py_ssize_t c = 1; c < classes; c++)
            for (Py_ssize_t lane = 0; lane < lanes; lane++) {
                const REAL x = y[c * apart + lane] + dx[lane] * w[c];
                largest[lane] = x > largest[lane] ? x : largest[lane];
            }
        for (Py_ssize_t c = 0; c < classes; c++) {
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                e[lane] = y[c * apart + lane] + dx[lane] * w[c] - largest[lane];
            NAME(exp_lanes)(e, lanes);
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                sum[lane] += e[lane];
        }
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            e[lane] = y[t[lane] * apart + lane] + dx[lane] * w[t[lane]];
        for (Py_ssize_t lane = 0; lane < lanes; lane++)
            losses[lane] = NAME(log)(sum[lane]) + (largest[lane] - e[lane]);
    }
}

/* losses[i] <- those of the rows y + dx[i] w[i]. y: (classes, n); dx, losses: (k, n); w: (k, classes); t: (n,). A row
   whose dx is 0 has the loss of y. Many are where images are mostly black; the others are then gathered, which serves
   all the following variants that change the same rows. work: n (classes + 3) numbers, rows: 3 n of them. */
static void NAME(softmax_cross_entropy_variants)(
    const Py_ssize_t *shape, void *const *arrays, REAL *work, int64_t *rows)
{
    const Py_ssize_t k = shape[0], classes = shape[1], n = shape[2];
    const REAL *y = arrays[0], *dx = arrays[1], *w = arrays[2];
    const int64_t *t = arrays[3];
    REAL *losses = arrays[4], *unchanged = work, *changes = work + n, *found = work + 2 * n, *gathered = work + 3 * n;
    int64_t *gathered_rows = rows + n, *gathered_t = rows + 2 * n;
    Py_ssize_t last = -1;
    memset(changes, 0, (size_t)n * sizeof(REAL));
    NAME(outer_losses)(n, classes, n, y, changes, w, t, unchanged);
    for (Py_ssize_t i = 0; i < k; i++, w += classes, dx += n, losses += n) {
        int zeros = 0;
        for (Py_ssize_t row = 0; row < n; row++)
            zeros |= dx[row] == 0;
        if (!zeros) {
            NAME(outer_losses)(n, classes, n, y, dx, w, t, losses);
            continue;
        }
        Py_ssize_t count = 0;
        for (Py_ssize_t row = 0; row < n; row++) {
            rows[count] = row;
            count += dx[row] != 0;
        }
        if (count != last || memcmp(rows, gathered_rows, (size_t)count * sizeof *rows)) {
            last = count;
            memcpy(gathered_rows, rows, (size_t)count * sizeof *rows);
            for (Py_ssize_t at = 0; at < count; at++)
                gathered_t[at] = t[rows[at]];
            for (Py_ssize_t c = 0; c < classes; c++)
                for (Py_ssize_t at = 0; at < count; at++)
                    gathered[c * n + at] = y[c * n + rows[at]];
        }
        for (Py_ssize_t at = 0; at < count; at++)
            changes[at] = dx[rows[at]];
        NAME(outer_losses)(count, classes, n, gathered, changes, w, gathered_t, found);
        memcpy(losses, unchanged, (size_t)n * sizeof(REAL));
        for (Py_ssize_t at = 0; at < count; at++)
            losses[rows[at]] = found[at];
    }
}

VECTORS int NAME(is_finite)(Py_ssize_t n, const void *given)
{
    const REAL *x = given;
    enum { LANES = 64 };
    REAL lanes[LANES] = {0}, sum = 0;
    Py_ssize_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += x[i + lane] * 0; /* 0, or NaN for what is not finite */
    for (; i < n; i++)
        sum += x[i] * 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum == 0;
}

/* y <- the largest elements of windows of x. arrays: x, y */
VECTORS void NAME(max_pooling)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Pooling *job = given;
    const Py_ssize_t *results = job->results, *images = job->images, n = results[3];
    for (Py_ssize_t window = first * results[1] * results[2]; window < stop * results[1] * results[2]; window++) {
        const Py_ssize_t line = window / results[2], top = line % results[1] * job->down;
        const Py_ssize_t corner = (line / results[1] * images[1] + top) * images[2] + window % results[2] * job->right;
        const REAL *all_x = (const REAL *)job->arrays[0] + corner * n;
        REAL *y = (REAL *)job->arrays[1] + window * n;
        memcpy(y, all_x, (size_t)n * sizeof(REAL));
        for (Py_ssize_t place = 1; place < job->height * job->width; place++) {
            const REAL *x = all_x + (place / job->width * images[2] + place % job->width) * n;
            for (Py_ssize_t image = 0; image < n; image++)
                y[image] = y[image] >= x[image] || y[image] != y[image] ? y[image] : x[image]; /* NaN stays */
        }
    }
}

/* dx gets dy where a window has the first element that equals its maximum, and 0 elsewhere. arrays: dy, x, y, dx.
   Windows side by side meet each element once, so that dx need not be cleared first. */
VECTORS void NAME(max_pooling_backward)(const void *given, Py_ssize_t first_image, Py_ssize_t stop)
{
    const Pooling *job = given;
    const Py_ssize_t *deltas = job->results, *images = job->images, n = deltas[3];
    const REAL *all_dy = job->arrays[0], *all_x = job->arrays[1], *all_y = job->arrays[2];
    REAL *all_dx = job->arrays[3];
    const Py_ssize_t height = job->height, width = job->width, down = job->down, right = job->right;
    const Py_ssize_t lines = deltas[1] * down, columns = deltas[2] * right; /* that such windows fill */
    const int apart = height == down && width == right;
    enum { LANES = 64 };
    for (Py_ssize_t line = first_image * images[1]; line < stop * images[1]; line++) {
        const Py_ssize_t filled = apart && line % images[1] < lines ? columns : 0;
        memset(all_dx + (line * images[2] + filled) * n, 0, (size_t)((images[2] - filled) * n) * sizeof(REAL));
    }
    for (Py_ssize_t window = first_image * deltas[1] * deltas[2]; window < stop * deltas[1] * deltas[2]; window++) {
        const Py_ssize_t line = window / deltas[2], top = line % deltas[1] * down, left = window % deltas[2] * right;
        const Py_ssize_t corner = ((line / deltas[1] * images[1] + top) * images[2] + left) * n;
        for (Py_ssize_t first = 0; first < n; first += LANES) {
            const Py_ssize_t lanes = n - first < LANES ? n - first : LANES;
            const REAL *dy = all_dy + window * n + first, *y = all_y + window * n + first;
            REAL rest[LANES]; /* of dy, that has not found its element */
            for (Py_ssize_t lane = 0; lane < lanes; lane++)
                rest[lane] = dy[lane];
            for (Py_ssize_t i = 0; i < height; i++)
                for (Py_ssize_t j = 0; j < width; j++) {
                    const Py_ssize_t place = corner + (i * images[2] + j) * n + first;
                    const REAL *x = all_x + place;
                    REAL *dx = all_dx + place;
                    for (Py_ssize_t lane = 0; lane < lanes; lane++) {
                        const int hit = x[lane] == y[lane];
                        dx[lane] = (apart ? 0 : dx[lane]) + (hit ? rest[lane] : 0);
                        rest[lane] = hit ? 0 : rest[lane];
                    }
                }
        }
    }
}

/* y[b, p, a] <- x[a, p, b] for the positions p from first to stop, some at a time: whole lines of the cache are read */
static void NAME(swap_ends)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Swap *job = given;
    const Py_ssize_t n = job->n, positions = job->positions, c = job->c;
    enum { SOME = CACHE_LINE / sizeof(REAL) };
    const Py_ssize_t together = c < SOME ? SOME / c : 1;
    for (Py_ssize_t p = first; p < stop; p += together) {
        const Py_ssize_t end = stop - p < together ? stop : p + together;
        for (Py_ssize_t from = 0; from < n; from += SOME) {
            const Py_ssize_t count = n - from < SOME ? n - from : SOME;
            for (Py_ssize_t part = 0; part < c; part += SOME)
                for (Py_ssize_t place = p; place < end; place++)
                    for (Py_ssize_t b = part; b < c && b < part + SOME; b++) {
                        const REAL *x = (const REAL *)job->x + (from * positions + place) * c + b;
                        REAL *y = (REAL *)job->y + (b * positions + place) * n + from;
                        for (Py_ssize_t a = 0; a < count; a++)
                            y[a] = x[a * positions * c];
                    }
        }
    }
}

#ifdef __GNUC__
typedef REAL NAME(vector) __attribute__((vector_size(VECTOR), aligned(sizeof(REAL)), may_alias));

/* Lines of x into job->work, (h, w, blocks, c, lanes): two vectors of images make a block, the last of which may overlap
   the one before. What a filter meets at a place then lies together. */
VECTORS void NAME(convolution_blocks)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Convolution *job = given;
    enum { BOTH = 2 * VECTOR / sizeof(REAL) };
    const Py_ssize_t n = job->n, plane = job->h * job->w;
    REAL *block = (REAL *)job->work + first * job->w * ((n + BOTH - 1) / BOTH) * job->c * BOTH;
    for (Py_ssize_t place = first * job->w; place < stop * job->w; place++)
        for (Py_ssize_t image = 0; image < n; image += BOTH) {
            const REAL *x = (const REAL *)job->x + place * n + (image + BOTH <= n ? image : n - BOTH);
            for (Py_ssize_t channel = 0; channel < job->c; channel++, block += BOTH)
                memcpy(block, x + channel * plane * n, BOTH * sizeof(REAL));
        }
}

/* Lines of y. At a place four filters at a time meet a block, and their sums stay in registers. */
SUMS void NAME(convolution_lines)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Convolution *job = given;
    enum { LANES = VECTOR / sizeof(REAL), BOTH = 2 * LANES };
    const Py_ssize_t c = job->c, h = job->h, w = job->w, n = job->n, o = job->o, blocks = (n + BOTH - 1) / BOTH;
    const Py_ssize_t apart = job->lines * job->columns * n;
    const REAL *W = job->W, *b = job->b;
    for (Py_ssize_t place = first * job->columns; place < stop * job->columns; place++) {
        const Py_ssize_t top = place / job->columns * job->down - job->top;
        const Py_ssize_t left = place % job->columns * job->right - job->left;
        const Py_ssize_t i0 = top < 0 ? -top : 0, i1 = top + job->height > h ? h - top : job->height;
        const Py_ssize_t j0 = left < 0 ? -left : 0, j1 = left + job->width > w ? w - left : job->width;
        for (Py_ssize_t block = 0; block < blocks; block++) {
            REAL *y = (REAL *)job->y + place * n + (block * BOTH + BOTH <= n ? block * BOTH : n - BOTH);
            for (Py_ssize_t filter = 0; filter < o; filter += 4) {
                const Py_ssize_t f1 = filter + 1 < o ? 1 : 0, f2 = filter + 2 < o ? 2 : 0, f3 = filter + 3 < o ? 3 : 0;
                const NAME(vector) zero = {0};
                NAME(vector) y0 = zero + b[filter], y1 = y0, y2 = zero + b[filter + f1], y3 = y2;
                NAME(vector) y4 = zero + b[filter + f2], y5 = y4, y6 = zero + b[filter + f3], y7 = y6;
                for (Py_ssize_t i = i0; i < i1; i++)
                    for (Py_ssize_t j = j0; j < j1; j++) {
                        const Py_ssize_t from = (((top + i) * w + left + j) * blocks + block) * c * BOTH;
                        const NAME(vector) *x = (const NAME(vector) *)((const REAL *)job->work + from);
                        const REAL *f = W + (i * job->width + j) * c * o + filter;
                        for (Py_ssize_t channel = 0; channel < c; channel++, x += 2, f += o) {
                            const NAME(vector) x0 = x[0], x1 = x[1];
                            y0 += f[0] * x0;
                            y1 += f[0] * x1;
                            y2 += f[f1] * x0;
                            y3 += f[f1] * x1;
                            y4 += f[f2] * x0;
                            y5 += f[f2] * x1;
                            y6 += f[f3] * x0;
                            y7 += f[f3] * x1;
                        }
                    }
                const NAME(vector) results[] = {y0, y1, y2, y3, y4, y5, y6, y7};
                const Py_ssize_t count = o - filter < 4 ? o - filter : 4;
                for (int at = 0; at < 2 * count; at++)
                    *(NAME(vector) *)(y + (filter + at / 2) * apart + at % 2 * LANES) = results[at];
            }
        }
    }
}

/* By its address: Clang refuses a vector as an argument where the two functions have registers of other widths. */
PART REAL NAME(total)(const NAME(vector) *v)
{
    REAL sum = 0;
    for (size_t lane = 0; lane < VECTOR / sizeof(REAL); lane++)
        sum += (*v)[lane];
    return sum;
}

/* dW and db of some groups of four filters, for strides of 1 to the right: every element is the product of a line of x,
   which has its padding, and a line of dy, summed over lines. A piece of four lines of dy stays in the first cache while
   those of x pass, and all pieces stay in the second. */
SUMS void NAME(convolution_filters)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Convolution *job = given;
    const Py_ssize_t n = job->n, o = job->o, length = job->columns * n, size = job->height * job->width * job->c;
    const REAL *x = job->x, *all_dy = job->y;
    REAL *dW = (REAL *)job->W, *db = (REAL *)job->b;
    enum { LANES = VECTOR / sizeof(REAL), PIECE = 1024 };
    for (Py_ssize_t line = 0; line < job->lines; line++)
        for (Py_ssize_t from = 0; from < length; from += PIECE) {
            const Py_ssize_t piece = length - from < PIECE ? length - from : PIECE, whole = piece / LANES * LANES;
            for (Py_ssize_t filter = 4 * first; filter < 4 * stop && filter < o; filter += 4) {
                const REAL *dy[4]; /* the last filter again where there are fewer */
                for (int f = 0; f < 4; f++) {
                    const Py_ssize_t one = filter + f < o ? filter + f : o - 1;
                    dy[f] = all_dy + (one * job->lines + line) * length + from;
                    NAME(vector) sums = {0};
                    for (Py_ssize_t at = 0; at < whole; at += LANES)
                        sums += *(const NAME(vector) *)(dy[f] + at);
                    REAL sum = NAME(total)(&sums);
                    for (Py_ssize_t lane = whole; lane < piece; lane++)
                        sum += dy[f][lane];
                    if (filter + f < o)
                        db[filter + f] += sum;
                }
                for (Py_ssize_t k = 0; k < size; k += 2) {
                    const REAL *rows[2];
                    for (int e = 0; e < 2; e++) {
                        const Py_ssize_t element = k + e < size ? k + e : k, tap = element / job->c;
                        const Py_ssize_t i = tap / job->width, j = tap % job->width;
                        rows[e] = x + ((element % job->c * job->h + line * job->down + i) * job->w + j) * n + from;
                    }
                    NAME(vector) s00 = {0}, s01 = {0}, s02 = {0}, s03 = {0}, s10 = {0}, s11 = {0}, s12 = {0}, s13 = {0};
                    for (Py_ssize_t at = 0; at < whole; at += LANES) {
                        const NAME(vector) x0 = *(const NAME(vector) *)(rows[0] + at);
                        const NAME(vector) x1 = *(const NAME(vector) *)(rows[1] + at);
                        const NAME(vector) d0 = *(const NAME(vector) *)(dy[0] + at);
                        const NAME(vector) d1 = *(const NAME(vector) *)(dy[1] + at);
                        const NAME(vector) d2 = *(const NAME(vector) *)(dy[2] + at);
                        const NAME(vector) d3 = *(const NAME(vector) *)(dy[3] + at);
                        s00 += x0 * d0;
                        s01 += x0 * d1;
                        s02 += x0 * d2;
                        s03 += x0 * d3;
                        s10 += x1 * d0;
                        s11 += x1 * d1;
                        s12 += x1 * d2;
                        s13 += x1 * d3;
                    }
                    REAL sums[] = {
                        NAME(total)(&s00), NAME(total)(&s01), NAME(total)(&s02), NAME(total)(&s03),
                        NAME(total)(&s10), NAME(total)(&s11), NAME(total)(&s12), NAME(total)(&s13)};
                    for (int at = 0; at < 8; at++) {
                        for (Py_ssize_t lane = whole; lane < piece; lane++)
                            sums[at] += rows[at / 4][lane] * dy[at % 4][lane];
                        if (k + at / 4 < size && filter + at % 4 < o)
                            dW[(k + at / 4) * o + filter + at % 4] += sums[at];
                    }
                }
            }
        }
}

#endif

#undef REAL
#undef NAME
#undef SQRT
#undef FLOOR
