/* Products of matrices, once for each type and each width of vectors: native.c includes this file with REAL and NAME set,
   REGISTER (bytes of a vector), ROWS (of a tile), TARGET, SET and FMA, and the last two for half a vector.

   A tile of ROWS x WIDE sums stays in registers while a panel of a and one of b pass: columns of a, and rows of b, that
   were copied to lie one behind the other. A panel of a then stays in the first cache, and a block of b in the second
   (Goto, van de Geijn 2008: Anatomy of high-performance matrix multiplication).

   The sum of an element has an order of its own: blocks of at most BLOCK terms, each summed one by one with fused
   multiply-add, then added up. So its bits depend neither on the other rows and columns, nor on the number of threads,
   nor on the processor. */

typedef REAL NAME(wide) __attribute__((vector_size(REGISTER), aligned(sizeof(REAL)), may_alias));
typedef REAL NAME(half) __attribute__((vector_size(REGISTER / 2), aligned(sizeof(REAL)), may_alias));
typedef REAL NAME(four) __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));

enum { NAME(LANES) = REGISTER / sizeof(REAL), NAME(WIDE) = 2 * NAME(LANES) };
enum { NAME(BLOCK) = 1536 / sizeof(REAL), NAME(BAND) = 256 / NAME(WIDE) * NAME(WIDE) }; /* terms; columns of a block */
enum { NAME(ONCE) = (1 << 21) / sizeof(REAL) }; /* elements of a that are packed at once */

/* c <- the sums of k products, + c if `more`, + bias if there is one. a: (k, ROWS), b: (k, ...) with `apart` elements
   from row to row, c: (rows, columns) with `line` elements from row to row. Columns are counted in halves of vectors. */
TARGET static inline __attribute__((always_inline)) void NAME(tile)(
    const int rows, const int halves, Py_ssize_t k, const REAL *a, const REAL *b, Py_ssize_t apart, REAL *c,
    Py_ssize_t line, int more, const REAL *bias)
{
    const int vectors = halves / 2, odd = halves % 2, last = vectors * NAME(LANES);
    NAME(wide) sums[ROWS][2];
    NAME(half) rest[ROWS];
    for (int i = 0; i < rows; i++) {
        for (int v = 0; v < vectors; v++)
            sums[i][v] = (NAME(wide)){0};
        rest[i] = (NAME(half)){0};
    }
    for (; k > 0; k--, a += ROWS, b += apart) {
        NAME(wide) columns[2];
        NAME(half) end = {0};
        for (int v = 0; v < vectors; v++)
            columns[v] = ((const NAME(wide) *)b)[v];
        if (odd)
            end = *(const NAME(half) *)(b + last);
        for (int i = 0; i < rows; i++) {
            for (int v = 0; v < vectors; v++)
                sums[i][v] = FMA(SET(a[i]), columns[v], sums[i][v]);
            if (odd)
                rest[i] = FMA_HALF(SET_HALF(a[i]), end, rest[i]);
        }
    }
    for (int i = 0; i < rows; i++, c += line) {
        for (int v = 0; v < vectors; v++) {
            NAME(wide) *out = (NAME(wide) *)c + v;
            if (more)
                sums[i][v] += *out;
            if (bias)
                sums[i][v] += ((const NAME(wide) *)bias)[v];
            *out = sums[i][v];
        }
        if (odd) {
            NAME(half) *out = (NAME(half) *)(c + last);
            if (more)
                rest[i] += *out;
            if (bias)
                rest[i] += *(const NAME(half) *)(bias + last);
            *out = rest[i];
        }
    }
}

typedef void NAME(Tile)(int, Py_ssize_t, const REAL *, const REAL *, Py_ssize_t, REAL *, Py_ssize_t, int, const REAL *);

#define TILE(rows)                                                                                                 \
    TARGET static __attribute__((noinline)) void NAME(tile_##rows)(                                                \
        int halves, Py_ssize_t k, const REAL *a, const REAL *b, Py_ssize_t apart, REAL *c, Py_ssize_t line,        \
        int more, const REAL *bias)                                                                                \
    {                                                                                                              \
        if (halves == 4)                                                                                           \
            NAME(tile)(rows, 4, k, a, b, apart, c, line, more, bias);                                              \
        else if (halves == 3)                                                                                      \
            NAME(tile)(rows, 3, k, a, b, apart, c, line, more, bias);                                              \
        else if (halves == 2)                                                                                      \
            NAME(tile)(rows, 2, k, a, b, apart, c, line, more, bias);                                              \
        else                                                                                                       \
            NAME(tile)(rows, 1, k, a, b, apart, c, line, more, bias);                                              \
    }

TILE(1)
TILE(2)
TILE(4)
#if ROWS == 12
TILE(8)
TILE(12)
static NAME(Tile) *const NAME(tiles)[] = {
    [1] = NAME(tile_1), [2] = NAME(tile_2), [4] = NAME(tile_4), [8] = NAME(tile_8), [12] = NAME(tile_12)};
#else
TILE(6)
static NAME(Tile) *const NAME(tiles)[] = {
    [1] = NAME(tile_1), [2] = NAME(tile_2), [4] = NAME(tile_4), [6] = NAME(tile_6)};
#endif
#undef TILE

/* How many of so many rows a tile takes. */
static inline Py_ssize_t NAME(tile_rows)(Py_ssize_t rows)
{
    return rows >= ROWS ? ROWS : ROWS == 12 && rows >= 8 ? 8 : rows >= 4 ? 4 : rows >= 2 ? 2 : 1;
}

/* c <- the sums of a row, + c if `more`, + bias if there is one */
TARGET static inline __attribute__((always_inline)) void NAME(add_up)(
    Py_ssize_t columns, const REAL *sums, REAL *c, int more, const REAL *bias)
{
    for (Py_ssize_t j = 0; j < columns; j++) {
        const REAL sum = more ? sums[j] + c[j] : sums[j];
        c[j] = bias ? sum + bias[j] : sum;
    }
}

/* A tile of any number of columns, at most WIDE */
TARGET static __attribute__((noinline)) void NAME(columns)(
    Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t k, const REAL *a, const REAL *b, Py_ssize_t apart, REAL *c,
    Py_ssize_t line, int more, const REAL *bias)
{
    REAL padded[ROWS * NAME(WIDE)];
    const Py_ssize_t half = NAME(LANES) / 2;
    const int halves = (int)((columns + half - 1) / half);
    if (columns % half == 0) {
        NAME(tiles)[rows](halves, k, a, b, apart, c, line, more, bias);
        return;
    }
    NAME(tiles)[rows](halves, k, a, b, apart, padded, NAME(WIDE), 0, NULL);
    for (Py_ssize_t i = 0; i < rows; i++, c += line)
        NAME(add_up)(columns, padded + i * NAME(WIDE), c, more, bias);
}

/* out[p, i] <- x[i, p] for 4 x 4 elements */
TARGET static inline __attribute__((always_inline)) void NAME(turn)(
    const REAL *x, Py_ssize_t line, REAL *out, Py_ssize_t apart)
{
    const NAME(four) x0 = *(const NAME(four) *)x, x1 = *(const NAME(four) *)(x + line);
    const NAME(four) x2 = *(const NAME(four) *)(x + 2 * line), x3 = *(const NAME(four) *)(x + 3 * line);
    const NAME(four) low01 = __builtin_shufflevector(x0, x1, 0, 4, 1, 5);
    const NAME(four) low23 = __builtin_shufflevector(x2, x3, 0, 4, 1, 5);
    const NAME(four) high01 = __builtin_shufflevector(x0, x1, 2, 6, 3, 7);
    const NAME(four) high23 = __builtin_shufflevector(x2, x3, 2, 6, 3, 7);
    *(NAME(four) *)out = __builtin_shufflevector(low01, low23, 0, 1, 4, 5);
    *(NAME(four) *)(out + apart) = __builtin_shufflevector(low01, low23, 2, 3, 6, 7);
    *(NAME(four) *)(out + 2 * apart) = __builtin_shufflevector(high01, high23, 0, 1, 4, 5);
    *(NAME(four) *)(out + 3 * apart) = __builtin_shufflevector(high01, high23, 2, 3, 6, 7);
}

/* A panel: out[p, i] <- x[i, p], for p < k and i < rows <= width. What it holds beyond `rows` is of no use. x has `line`
   elements from i to i + 1, `step` from p to p + 1. */
TARGET static inline __attribute__((always_inline)) void NAME(panel)(
    const REAL *x, Py_ssize_t line, Py_ssize_t step, Py_ssize_t rows, const Py_ssize_t width, Py_ssize_t k, REAL *out)
{
    enum { TOGETHER = 64 / sizeof(REAL) }; /* of a line of the cache */
    Py_ssize_t p = 0;
    if (rows == width && line == 1)
        for (; p < k; p++)
            memcpy(out + p * width, x + p * step, (size_t)width * sizeof(REAL));
    else if (rows >= 4 && step == 1)
        for (; p + TOGETHER <= k; p += TOGETHER)
            for (Py_ssize_t i = 0; i < rows; i += 4) {
                const Py_ssize_t from = i + 4 <= rows ? i : rows - 4;
                for (Py_ssize_t q = p; q < p + TOGETHER; q += 4)
                    NAME(turn)(x + from * line + q, line, out + q * width + from, width);
            }
    for (; p < k; p++)
        for (Py_ssize_t i = 0; i < rows; i++)
            out[p * width + i] = x[i * line + p * step];
}

TARGET static __attribute__((noinline)) void NAME(panel_of_a)(
    const REAL *a, Py_ssize_t line, Py_ssize_t step, Py_ssize_t rows, Py_ssize_t k, REAL *out)
{
    NAME(panel)(a, line, step, rows, ROWS, k, out);
}

/* Panels of b for columns, each behind the other. Rows that lie in one run of memory are copied as such. */
TARGET static __attribute__((noinline)) void NAME(panels_of_b)(
    const REAL *b, Py_ssize_t line, Py_ssize_t step, Py_ssize_t columns, Py_ssize_t k, REAL *out)
{
    const Py_ssize_t padded = (columns + NAME(WIDE) - 1) / NAME(WIDE) * NAME(WIDE);
    Py_ssize_t p = 0;
    for (; line == 1 && p < k && (k - 1 - p) * step + columns >= padded; p++) /* it may read on into the next row */
        for (Py_ssize_t j = 0; j < columns; j += NAME(WIDE))
            memcpy(out + j * k + p * NAME(WIDE), b + p * step + j, sizeof(REAL) * NAME(WIDE));
    for (Py_ssize_t j = 0; j < columns && p < k; j += NAME(WIDE))
        NAME(panel)(
            b + j * line + p * step, line, step, columns - j < NAME(WIDE) ? columns - j : NAME(WIDE), NAME(WIDE), k - p,
            out + j * k + p * NAME(WIDE));
}

static inline Py_ssize_t NAME(blocks)(Py_ssize_t k)
{
    return k > NAME(BLOCK) ? (k + NAME(BLOCK) - 1) / NAME(BLOCK) : 1;
}

/* Where block q of k terms begins. */
static inline Py_ssize_t NAME(begin)(Py_ssize_t k, Py_ssize_t q, Py_ssize_t blocks)
{
    return k / blocks * q + k % blocks * q / blocks;
}

/* The sums of `vectors` vectors of columns of b, in the order of the tiles, for a single row of a */
TARGET static inline __attribute__((always_inline)) void NAME(row)(
    const int vectors, Py_ssize_t k, const REAL *a, Py_ssize_t a_step, const REAL *b, Py_ssize_t apart, NAME(wide) *sums)
{
    for (int v = 0; v < vectors; v++)
        sums[v] = (NAME(wide)){0};
    for (; k > 0; k--, a += a_step, b += apart)
        for (int v = 0; v < vectors; v++)
            sums[v] = FMA(SET(*a), ((const NAME(wide) *)b)[v], sums[v]);
}

/* c, a row, <- a b, where the rows of b lie in one run of memory and have a vector at least: nothing is copied. */
TARGET static void NAME(product_of_row)(
    const Product *job, const REAL *a, const REAL *b, REAL *c, Py_ssize_t n, const REAL *bias)
{
    const Py_ssize_t k = job->k, blocks = NAME(blocks)(k), step = job->a_step[1], apart = job->b_step[0];
    for (Py_ssize_t q = 0; q < blocks; q++) {
        const Py_ssize_t p = NAME(begin)(k, q, blocks), terms = NAME(begin)(k, q + 1, blocks) - p;
        const REAL *x = a + p * step, *y = b + p * apart;
        for (Py_ssize_t j = 0, columns; j < n; j += columns) {
            const Py_ssize_t left = n - j, from = left < NAME(LANES) ? n - NAME(LANES) : j; /* the last may overlap */
            NAME(wide) sums[8];
            if (left >= 8 * NAME(LANES))
                NAME(row)(8, terms, x, step, y + from, apart, sums), columns = 8 * NAME(LANES);
            else if (left >= 2 * NAME(LANES))
                NAME(row)(2, terms, x, step, y + from, apart, sums), columns = 2 * NAME(LANES);
            else
                NAME(row)(1, terms, x, step, y + from, apart, sums), columns = left < NAME(LANES) ? left : NAME(LANES);
            NAME(add_up)(
                columns, (const REAL *)sums + (j - from), c + j, job->more || q > 0,
                q == blocks - 1 && bias ? bias + j : NULL);
        }
    }
}

/* m rows of a in panels, those of a block of terms one behind the other, `all` rows with those that fill the last. */
TARGET static void NAME(pack)(const Product *job, const REAL *a, Py_ssize_t m, Py_ssize_t all, REAL *panels)
{
    const Py_ssize_t k = job->k, blocks = NAME(blocks)(k);
    for (Py_ssize_t q = 0; q < blocks; q++) {
        const Py_ssize_t p = NAME(begin)(k, q, blocks), terms = NAME(begin)(k, q + 1, blocks) - p;
        for (Py_ssize_t i = 0; i < m; i += ROWS)
            NAME(panel_of_a)(
                a + i * job->a_step[0] + p * job->a_step[1], job->a_step[0], job->a_step[1], m - i < ROWS ? m - i : ROWS,
                terms, panels + p * all + i * terms);
    }
}

/* A product in one thread */
TARGET static void NAME(product_of)(
    const Product *job, const REAL *a, const REAL *b, REAL *c, Py_ssize_t m, Py_ssize_t n, const REAL *bias)
{
    _Alignas(REGISTER) REAL panel[ROWS * NAME(BLOCK)], little[NAME(WIDE) * NAME(BLOCK)];
    const Py_ssize_t k = job->k, blocks = NAME(blocks)(k);
    if (m == 1 && job->b_step[1] == 1 && n >= NAME(LANES)) {
        NAME(product_of_row)(job, a, b, c, n, bias);
        return;
    }
    const int direct = job->b_step[1] == 1 && m <= 2 * ROWS; /* rows of b that are met once or twice need no copy */
    Py_ssize_t band = n < NAME(BAND) ? n : NAME(BAND);
    const Py_ssize_t size = (band + NAME(WIDE)) * (k / blocks + 1), all = (m + ROWS - 1) / ROWS * ROWS;
    const int once = n > band && all * k <= NAME(ONCE); /* pack a once, not for each block of columns */
    void *memory = NULL;
    REAL *block = little, *panels = NULL;
    if (!direct && band > NAME(WIDE)) {
        memory = malloc((size_t)(size + once * all * k) * sizeof(REAL) + CACHE_LINE);
        if (memory) {
            block = on_cache_line(memory);
            panels = once ? block + size : NULL;
        } else
            band = NAME(WIDE);
    }
    if (panels)
        NAME(pack)(job, a, m, all, panels);
    for (Py_ssize_t left = 0; left < n; left += band)
        for (Py_ssize_t q = 0; q < blocks; q++) {
            const Py_ssize_t p = NAME(begin)(k, q, blocks), terms = NAME(begin)(k, q + 1, blocks) - p;
            const Py_ssize_t right = n - left < band ? n : left + band;
            const REAL *from = b + p * job->b_step[0];
            const Py_ssize_t copied = direct ? left + (right - left) / NAME(WIDE) * NAME(WIDE) : left;
            NAME(panels_of_b)(
                from + copied * job->b_step[1], job->b_step[1], job->b_step[0], right - copied, terms, block);
            for (Py_ssize_t i = 0, rows; i < m; i += rows) {
                rows = NAME(tile_rows)(m - i);
                const REAL *part = panel;
                if (panels)
                    part = panels + p * all + i / ROWS * ROWS * terms + i % ROWS;
                else
                    NAME(panel_of_a)(
                        a + i * job->a_step[0] + p * job->a_step[1], job->a_step[0], job->a_step[1], rows, terms, panel);
                for (Py_ssize_t j = left; j < right; j += NAME(WIDE)) {
                    const Py_ssize_t columns = right - j < NAME(WIDE) ? right - j : NAME(WIDE);
                    const int there = j < copied;
                    const REAL *met = there ? from + j : block + (j - copied) * terms;
                    NAME(columns)(
                        rows, columns, terms, part, met, there ? job->b_step[0] : NAME(WIDE), c + i * job->c_line + j,
                        job->c_line, job->more || q > 0, q == blocks - 1 && bias ? bias + j : NULL);
                }
            }
        }
    free(memory);
}

TARGET static void NAME(product_rows)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Product *job = given;
    const Py_ssize_t top = first * ROWS, m = stop * ROWS < job->m ? (stop - first) * ROWS : job->m - top;
    NAME(product_of)(
        job, (const REAL *)job->a + top * job->a_step[0], job->b, (REAL *)job->c + top * job->c_line, m, job->n, job->bias);
}

TARGET static void NAME(product_columns)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Product *job = given;
    const Py_ssize_t left = first * NAME(WIDE);
    const Py_ssize_t n = stop * NAME(WIDE) < job->n ? (stop - first) * NAME(WIDE) : job->n - left;
    NAME(product_of)(
        job, job->a, (const REAL *)job->b + left * job->b_step[1], (REAL *)job->c + left, job->m, n,
        job->bias ? (const REAL *)job->bias + left : NULL);
}

TARGET static void NAME(prepare)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Step *job = given;
    const Py_ssize_t units = (job->h + NAME(WIDE) - 1) / NAME(WIDE);
    for (Py_ssize_t part = 0; part < job->parts; part++)
        for (Py_ssize_t unit = first; unit < stop; unit++) {
            const Py_ssize_t j = unit * NAME(WIDE), columns = job->h - j < NAME(WIDE) ? job->h - j : NAME(WIDE);
            NAME(panels_of_b)(
                (const REAL *)job->W + (part * job->h + j) * job->W_step[1], job->W_step[1], job->W_step[0], columns,
                job->k, (REAL *)job->panels + (part * units + unit) * job->k * NAME(WIDE));
        }
}

TARGET static void NAME(step)(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    enum { TILES = 2 }; /* for which a panel of W is read once */
    const Step *job = given;
    const Py_ssize_t h = job->h, k = job->k, units = (h + NAME(WIDE) - 1) / NAME(WIDE);
    const Py_ssize_t blocks = job->state ? NAME(blocks)(k) : 0;
    _Alignas(REGISTER) REAL panels[TILES][ROWS * NAME(BLOCK)];
    for (Py_ssize_t q = 0; q < blocks; q++) {
        const Py_ssize_t p = NAME(begin)(k, q, blocks), terms = NAME(begin)(k, q + 1, blocks) - p;
        for (Py_ssize_t top = 0, bottom = 0; top < job->n; top = bottom) {
            Py_ssize_t rows[TILES] = {0};
            for (int tile = 0; tile < TILES && bottom < job->n; bottom += rows[tile++]) {
                rows[tile] = NAME(tile_rows)(job->n - bottom);
                NAME(panel_of_a)((const REAL *)job->state + bottom * k + p, k, 1, rows[tile], terms, panels[tile]);
            }
            for (Py_ssize_t part = 0; part < job->parts; part++)
                for (Py_ssize_t unit = first; unit < stop; unit++) {
                    const Py_ssize_t j = unit * NAME(WIDE), columns = h - j < NAME(WIDE) ? h - j : NAME(WIDE);
                    const REAL *b = (const REAL *)job->panels + ((part * units + unit) * k + p) * NAME(WIDE);
                    REAL *c = (REAL *)job->c + (top * job->parts + part) * h + j;
                    for (int tile = 0; tile < TILES && rows[tile]; c += rows[tile++] * job->parts * h)
                        NAME(columns)(
                            rows[tile], columns, terms, panels[tile], b, NAME(WIDE), c, job->parts * h, job->more || q > 0,
                            NULL);
                }
        }
    }
    job->gates(job->n, h, first * NAME(WIDE), stop * NAME(WIDE) < h ? stop * NAME(WIDE) : h, job->arrays);
}

static const Products NAME(products) = {
    NAME(product_rows), NAME(product_columns), NAME(prepare), NAME(step), ROWS, NAME(WIDE)};

#undef REAL
#undef NAME
#undef SET
#undef FMA
#undef SET_HALF
#undef FMA_HALF
