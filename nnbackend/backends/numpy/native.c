/* Loops that NumPy has to make in many passes over memory, as the Python module _native.

   Every function takes arrays, then numbers, and answers NotImplemented, with nothing touched, where the arrays are
   not what its loop is written for: aligned, without gaps (but what a product reads), float32 or float64 (`gather`: or
   int64) throughout, of shapes that belong together, row numbers and labels int64 and in range. The interpreter lock is
   free while a loop runs. Threads share a long one; every element is computed as by one thread, so that their number
   changes no bit. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <float.h>
#include <limits.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Each loop in the widest registers of the processor that it meets: glibc chooses when the module is loaded. Under a
   sanitizer it has one form, as three take minutes to compile. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__SANITIZE_ADDRESS__)
#define CLONES 1
#else
#define CLONES 0
#endif

#if CLONES
#define VECTORS __attribute__((target_clones("avx512f", "avx2", "default"))) static
#else
#define VECTORS static
#endif

/* The same for products that are summed, where a multiply-add may round once. */
#if CLONES && !defined(__clang__) && __GNUC__ >= 12
#define SUMS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default"), optimize("fp-contract=fast"))) static
#elif defined(__GNUC__) && !defined(__clang__)
#define SUMS __attribute__((optimize("fp-contract=fast"))) static
#else
#define SUMS VECTORS
#endif

/* What the loops are made of: a function that GCC chose not to inline would have the narrowest registers. It does choose
   so, where a file has become large. */
#ifdef __GNUC__
#define PART static inline __attribute__((always_inline))
#else
#define PART static inline
#endif

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) (void)(address)
#endif

/* For a line that another processor has read, and that is written next */
#if defined(__x86_64__) && defined(__GNUC__)
#define PREFETCH_TO_WRITE(address) __asm__ volatile("prefetchw %0" : : "m"(*(const char *)(address)))
#else
#define PREFETCH_TO_WRITE(address) PREFETCH(address)
#endif

#include "threads.h"

/* Around every loop. In an exact one, numbers next to 0 are what they are: see `take_tiny_for_zero` */
#define BEGIN_LOOP Py_BEGIN_ALLOW_THREADS { const Modes before = take_tiny_for_zero();
#define BEGIN_EXACT_LOOP Py_BEGIN_ALLOW_THREADS { const Modes before = MODES;
#define END_LOOP set_modes(before); } Py_END_ALLOW_THREADS

enum { CACHE_LINE = 64 };

/* Where the next line of the cache begins: vectors that straddle two take longer. */
static inline void *on_cache_line(void *memory)
{
    return (char *)memory + (CACHE_LINE - (uintptr_t)memory % CACHE_LINE) % CACHE_LINE;
}

enum { LEAST = 1 << 16 }; /* bytes of an array for a thread, in a loop that makes one pass */

typedef struct {
    const Py_ssize_t *results, *images; /* shapes, (c, h, w, n) */
    void *arrays[4];
    Py_ssize_t height, width, down, right;
} Pooling;

typedef struct {
    const void *x;
    void *y;
    Py_ssize_t n, positions, c;
} Swap;

/* x, y: (n, h, w, c), (n, points, c); rows, columns: (n, points) */
typedef struct {
    const void *x, *rows, *columns;
    void *y;
    Py_ssize_t n, h, w, c, points;
    double fill;
} Resampling;

/* x: (c, h, w, n), zero outside; W: (height, width, c, o); b: (o,); y: (o, lines, columns, n) */
typedef struct {
    const void *x, *W, *b;
    void *y, *work;
    Py_ssize_t c, h, w, n, o, lines, columns, height, width, down, right, top, left;
} Convolution;

/* e^x and log x without a branch or a table, so that a loop over them runs in vectors, with errors below 1 ulp. The
   polynomials are the best of their degree (Remez) for the intervals that the reductions leave. */

/* For x from LEAST to 0, and NaN: e^x = 2^n e^r, n the integer next to x / log 2. These return e^r - 1, and 2^n in
   `power`. What is below half the least normal number becomes 0. */
enum { LEAST_double = -709, LEAST_float = -88 };

PART double exp_parts_double(double x, double *power)
{
    const double to_integer = 0x1.8p52; /* a sum with it has the integer in its lowest bits */
    const double sum = x * 0x1.71547652b82fep+0 + to_integer, n = sum - to_integer;
    const double most = x - n * 0x1.62e42feep-1, rest = n * 0x1.a39ef35793c76p-33, r = most - rest, r2 = r * r;
    const double high = 0x1.a019b91469fcbp-16 + r * 0x1.71ddf6baad214p-19 +
                        r2 * (0x1.28917cb827b9ap-22 + r * 0x1.af6318e064c69p-26);
    const double low = 0x1.5555555553d67p-5 + r * 0x1.111111110f804p-7 +
                       r2 * (0x1.6c16c1788a026p-10 + r * 0x1.a01a01b00adfap-13);
    const double p = 0x1.0000000000001p-1 + r * 0x1.5555555555558p-3 + r2 * (low + r2 * r2 * high);
    uint64_t bits; /* 2^n is made of its bits; it is 0 for the n of LEAST */
    memcpy(&bits, &sum, sizeof bits);
    bits = (bits + 1023) << 52;
    memcpy(power, &bits, sizeof *power);
    return most + (r2 * p - rest);
}

PART float exp_parts_float(float x, float *power)
{
    const float to_integer = 0x1.8p23f, sum = x * 0x1.715476p+0f + to_integer, n = sum - to_integer;
    const float most = x - n * 0x1.62e4p-1f, rest = n * 0x1.7f7d1cp-20f, r = most - rest, r2 = r * r;
    const float p = 0.500000003f + r * 0.16666577f + r2 * (0.0416663754f + r * 0.00836317531f + r2 * 0.00139410999f);
    uint32_t bits;
    memcpy(&bits, &sum, sizeof bits);
    bits = (bits + 127) << 23;
    memcpy(power, &bits, sizeof *power);
    return most + (r2 * p - rest);
}

/* For x from 1 to the largest number, and NaN: x = 2^n m with m from sqrt(1/2) to sqrt(2); with f = m - 1 and
   s = f / (2 + f), log m = 2 artanh s = f - s (f - R(s^2)). */
PART double log_double(double x)
{
    uint64_t bits, rest;
    double n, m;
    memcpy(&bits, &x, sizeof bits);
    bits += 0x3ff0000000000000 - 0x3fe6a09e667f3bcd;
    rest = (bits & 0x000fffffffffffff) + 0x3fe6a09e667f3bcd;
    memcpy(&m, &rest, sizeof m);
    bits = bits >> 52 | 0x4330000000000000; /* 2^52 and the exponent, whose bias is taken off below */
    memcpy(&n, &bits, sizeof n);
    n -= 0x1p52 + 1023;
    const double f = m - 1, s = f / (2 + f), z = s * s, z2 = z * z;
    const double low = 0x1.5555555555558p-1 + z * 0x1.999999999522fp-2;
    const double high = 0x1.2492492e02ad1p-2 + z * 0x1.c71c62d1c955ep-3 +
                        z2 * (0x1.7462b9b74fa4fp-3 + z * 0x1.39fdc7f3ccf40p-3 + z2 * 0x1.2b5f090c4f91bp-3);
    const double logarithm = n * 0x1.62e42feep-1 - ((s * (f - z * (low + z2 * high)) - n * 0x1.a39ef35793c76p-33) - f);
    return x <= DBL_MAX ? logarithm : x; /* NaN */
}

PART float log_float(float x)
{
    return (float)log_double(x);
}

/* Philox4x32-10 for counters that lie side by side, for the vectors: see functions/philox.py. The words of a stream
   from number `first` on, a multiple of 4. */
enum { LANES = 64 };
typedef struct {
    uint32_t w[4][LANES];
} Words;

PART void philox(Words *words, Py_ssize_t first, const double *numbers)
{
    const uint32_t clock = (uint32_t)numbers[0], stream = (uint32_t)numbers[1];
    uint32_t *c0 = words->w[0], *c1 = words->w[1], *c2 = words->w[2], *c3 = words->w[3];
    uint32_t k0 = (uint32_t)numbers[2], k1 = (uint32_t)numbers[3];
    for (int lane = 0; lane < LANES; lane++) {
        c0[lane] = (uint32_t)(first / 4) + (uint32_t)lane;
        c1[lane] = clock;
        c2[lane] = stream;
        c3[lane] = 0;
    }
    for (int turn = 0; turn < 10; turn++) {
        for (int lane = 0; lane < LANES; lane++) {
            const uint64_t product0 = (uint64_t)c0[lane] * 0xD2511F53u, product1 = (uint64_t)c2[lane] * 0xCD9E8D57u;
            c0[lane] = (uint32_t)(product1 >> 32) ^ c1[lane] ^ k0;
            c2[lane] = (uint32_t)(product0 >> 32) ^ c3[lane] ^ k1;
            c1[lane] = (uint32_t)product1;
            c3[lane] = (uint32_t)product0;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

enum { VECTOR = 32 }; /* bytes, of the vectors of GCC and Clang */

#ifdef __GNUC__
enum { HAS_VECTORS = 1 };
#else
enum { HAS_VECTORS = 0 };
#define convolution_blocks_float NULL
#define convolution_blocks_double NULL
#define convolution_lines_float NULL
#define convolution_lines_double NULL
#define convolution_filters_float NULL
#define convolution_filters_double NULL
#endif

#define REAL float
#define NAME(name) name##_float
#define SQRT sqrtf
#define FLOOR floorf
#include "loops.h"
#define REAL double
#define NAME(name) name##_double
#define SQRT sqrt
#define FLOOR floor
#include "loops.h"

/* --- products ------------------------------------------------------------------------------------------------- */

/* c, (m, n) <- a b, + c if `more`, + bias if there is one. Steps are elements from one index to the next, of each axis. */
typedef struct {
    const void *a, *b, *bias;
    void *c;
    Py_ssize_t m, n, k, a_step[2], b_step[2], c_line;
    int more;
} Product;

/* n rows of h of a recurrent network, and which of their columns */
typedef void Gates(Py_ssize_t n, Py_ssize_t h, Py_ssize_t from, Py_ssize_t to, void *const *arrays);

enum { MOST_ARRAYS = 8, MOST_NUMBERS = 6 };

/* A step of a recurrent network: c, (n, parts h), <- `state` W, + c if `more`, the state having k columns; then come
   the gates. panels: those of W, (parts, units of columns, k, width). */
typedef struct {
    const void *W, *state; /* no state: no product */
    void *panels, *c;
    Py_ssize_t n, h, k, parts, W_step[2];
    int more;
    Gates *gates;
    void *arrays[MOST_ARRAYS];
} Step;

typedef struct {
    Work *rows, *columns; /* shares of a product: rows of c in units of `height`, or columns in units of `width` */
    Work *prepare, *step; /* of a step, columns in units of `width`: the panels; all else */
    Py_ssize_t height, width;
} Products;

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && (defined(__clang__) || __GNUC__ >= 12)
#include <immintrin.h>

#define REGISTER 64
#define ROWS 12
#define TARGET __attribute__((target("avx512f,avx2,fma")))
#define REAL float
#define NAME(name) name##_float_v4
#define SET(x) (wide_float_v4)_mm512_set1_ps(x)
#define FMA(a, b, c) (wide_float_v4)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c))
#define SET_HALF(x) (half_float_v4)_mm256_set1_ps(x)
#define FMA_HALF(a, b, c) (half_float_v4)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#include "product.h"
#define REAL double
#define NAME(name) name##_double_v4
#define SET(x) (wide_double_v4)_mm512_set1_pd(x)
#define FMA(a, b, c) (wide_double_v4)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c))
#define SET_HALF(x) (half_double_v4)_mm256_set1_pd(x)
#define FMA_HALF(a, b, c) (half_double_v4)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#include "product.h"
#undef REGISTER
#undef ROWS
#undef TARGET

#define REGISTER 32
#define ROWS 6
#define TARGET __attribute__((target("avx2,fma")))
#define REAL float
#define NAME(name) name##_float_v3
#define SET(x) (wide_float_v3)_mm256_set1_ps(x)
#define FMA(a, b, c) (wide_float_v3)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c))
#define SET_HALF(x) (half_float_v3)_mm_set1_ps(x)
#define FMA_HALF(a, b, c) (half_float_v3)_mm_fmadd_ps((__m128)(a), (__m128)(b), (__m128)(c))
#include "product.h"
#define REAL double
#define NAME(name) name##_double_v3
#define SET(x) (wide_double_v3)_mm256_set1_pd(x)
#define FMA(a, b, c) (wide_double_v3)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c))
#define SET_HALF(x) (half_double_v3)_mm_set1_pd(x)
#define FMA_HALF(a, b, c) (half_double_v3)_mm_fmadd_pd((__m128d)(a), (__m128d)(b), (__m128d)(c))
#include "product.h"

static int widest = 64; /* bytes of the vectors, so that a test sees all */

/* Those of this processor, for float and double; NULL if it has no fused multiply-add. */
static const Products *products(int single)
{
    if (widest >= 64 && __builtin_cpu_supports("avx512f"))
        return single ? &products_float_v4 : &products_double_v4;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return single ? &products_float_v3 : &products_double_v3;
    return NULL;
}

#else

static int widest;

static const Products *products(int single)
{
    (void)single;
    return NULL;
}

#endif

/* The threads share columns or rows, of which there are more; what they share is copied by each. */
static void share_product(const Products *loops, const Product *job)
{
    const Py_ssize_t rows = (job->m + loops->height - 1) / loops->height;
    const Py_ssize_t columns = (job->n + loops->width - 1) / loops->width;
    if (job->n > job->m)
        share_out(loops->columns, job, columns, 1 + (1 << 18) / (job->m * job->k * loops->width + 1));
    else
        share_out(loops->rows, job, rows, 1 + (1 << 18) / (job->n * job->k * loops->height + 1));
}

/* --- arguments ------------------------------------------------------------------------------------------------ */

typedef struct {
    int count;
    Py_buffer views[MOST_ARRAYS];
    double numbers[MOST_NUMBERS];
} Arguments;

static PyObject *refusal(void)
{
    return Py_NewRef(Py_NotImplemented);
}

static void release(Arguments *a)
{
    while (a->count > 0)
        PyBuffer_Release(&a->views[--a->count]);
}

/* Let go of the arrays; None if the loop has run. */
static PyObject *finish(Arguments *a, int done)
{
    release(a);
    if (!done)
        return refusal();
    Py_RETURN_NONE;
}

/* Do the elements fill one run of memory, in whatever order of the axes? */
static int dense(const Py_buffer *view)
{
    Py_ssize_t run = view->itemsize;
    for (int turn = 0; turn < view->ndim; turn++)
        for (int axis = 0; axis < view->ndim; axis++)
            if (view->shape[axis] > 1 && view->strides[axis] == run) {
                run *= view->shape[axis];
                break;
            }
    return run == view->len || view->len == 0;
}

static int same_shape(const Py_buffer *a, const Py_buffer *b)
{
    int same = a->ndim == b->ndim;
    for (int axis = 0; same && axis < a->ndim; axis++)
        same = a->shape[axis] == b->shape[axis];
    return same;
}

static int same_layout(const Py_buffer *a, const Py_buffer *b)
{
    int same = same_shape(a, b);
    for (int axis = 0; same && axis < a->ndim; axis++)
        same = a->shape[axis] <= 1 || a->strides[axis] == b->strides[axis];
    return same;
}

/* The elements of an array are all in [0, end). */
static int within(const Py_buffer *view, Py_ssize_t end)
{
    const int64_t *numbers = view->buf;
    int inside = 1;
    for (Py_ssize_t i = 0; i < view->len / view->itemsize; i++)
        inside &= numbers[i] >= 0 && numbers[i] < end;
    return inside;
}

/* One array of the right kind: 'r' float32 or float64, 'n' a number of any of our types (each as the first array, if
   that is of this kind), 'i' int64. */
static int borrow(Arguments *a, PyObject *array, char kind, int layout)
{
    const char *int64 = sizeof(long) == 8 ? "lq" : "q"; /* as the buffer protocol spells it */
    const char *formats = kind == 'i' ? int64 : a->count ? a->views[0].format : kind == 'r' ? "fd" : "fdlq";
    Py_buffer *view = &a->views[a->count];
    if (PyObject_GetBuffer(array, view, layout | PyBUF_FORMAT)) {
        PyErr_Clear();
        return 0;
    }
    a->count++;
    const char *format = view->format;
    return format && format[0] && !format[1] && strchr(formats, format[0]) &&
           (uintptr_t)view->buf % (uintptr_t)view->itemsize == 0;
}

/* All arguments: a letter in `kinds` for each array (see `borrow`), `writes` a bit for each that the loop changes. 1, or
   0 for arrays that are not what the loop takes, or -1 with an exception set. */
static int parse(
    Arguments *a, PyObject *const *args, Py_ssize_t given, const char *kinds, int writes, int numbers, int layout)
{
    const int arrays = (int)strlen(kinds);
    a->count = 0;
    if (given != arrays + numbers) {
        PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", arrays + numbers, given);
        return -1;
    }
    for (int i = 0; i < numbers; i++) {
        a->numbers[i] = PyFloat_AsDouble(args[arrays + i]);
        if (a->numbers[i] == -1 && PyErr_Occurred())
            return -1;
    }
    for (int i = 0; i < arrays; i++)
        if (!borrow(a, args[i], kinds[i], layout | (writes >> i & 1 ? PyBUF_WRITABLE : 0))) {
            release(a);
            return 0;
        }
    return 1;
}

static int is_float(const Arguments *a)
{
    return a->views[0].format[0] == 'f';
}

/* --- loops over elements --------------------------------------------------------------------------------------- */

typedef void Elementwise(Py_ssize_t, void *const *, const double *);

typedef struct {
    Elementwise *loop;
    void *const *memory;
    const double *numbers;
    int count;
    Py_ssize_t itemsize;
} Elements;

static void some_elements(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Elements *job = given;
    void *memory[MOST_ARRAYS];
    for (int i = 0; i < job->count; i++)
        memory[i] = (char *)job->memory[i] + first * job->itemsize;
    job->loop(stop - first, memory, job->numbers);
}

static PyObject *elementwise(
    PyObject *const *args, Py_ssize_t given, const char *kinds, int writes, int numbers, Elementwise *single,
    Elementwise *twice, int update)
{
    Arguments a;
    void *memory[MOST_ARRAYS];
    int suited = parse(&a, args, given, kinds, writes, numbers, PyBUF_STRIDES);
    if (suited <= 0)
        return suited ? NULL : refusal();
    suited = dense(&a.views[0]);
    for (int i = 0; i < a.count; i++) {
        suited &= same_layout(&a.views[i], &a.views[0]);
        memory[i] = a.views[i].buf;
    }
    if (suited) {
        const Elements job = {is_float(&a) ? single : twice, memory, a.numbers, a.count, a.views[0].itemsize};
        BEGIN_EXACT_LOOP
        if (update)
            take_tiny_for_zero();
        share_out(some_elements, &job, a.views[0].len / a.views[0].itemsize, LEAST / a.views[0].itemsize);
        END_LOOP
    }
    return finish(&a, suited);
}

/* An update, or what is exact */
#define ELEMENTWISE(name, kinds, writes, numbers, update)                                                \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)                     \
    {                                                                                                    \
        (void)module;                                                                                    \
        return elementwise(args, given, kinds, writes, numbers, name##_float, name##_double, update);    \
    }

ELEMENTWISE(sgd, "rr", 1, 2, 1)
ELEMENTWISE(momentum, "rrr", 1 | 4, 3, 1)
ELEMENTWISE(nesterov, "rrr", 1 | 4, 3, 1)
ELEMENTWISE(rmsprop, "rrr", 1 | 4, 5, 1)
ELEMENTWISE(adam, "rrrr", 1 | 4 | 8, 6, 1)
ELEMENTWISE(relu, "rr", 2, 0, 0)
ELEMENTWISE(relu_backward, "rrr", 4, 0, 0)
ELEMENTWISE(masked, "rrr", 4, 0, 0)
ELEMENTWISE(leaky_relu, "rr", 2, 1, 0)
ELEMENTWISE(leaky_relu_backward, "rrr", 4, 1, 0)

ELEMENTWISE(sigmoid, "rr", 2, 0, 0)
ELEMENTWISE(sigmoid_backward, "rrr", 4, 0, 0)
ELEMENTWISE(gelu, "rr", 2, 0, 0)
ELEMENTWISE(gelu_backward, "rrr", 4, 0, 0)
ELEMENTWISE(silu, "rr", 2, 0, 0)
ELEMENTWISE(silu_backward, "rrr", 4, 0, 0)

typedef void Drawing(Py_ssize_t, Py_ssize_t, void *, const double *);

typedef struct {
    Drawing *loop;
    void *out;
    const double *numbers;
    Py_ssize_t size;
} Draws;

static void some_draws(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Draws *job = given;
    const Py_ssize_t end = stop * 4 * LANES;
    job->loop(first * 4 * LANES, end < job->size ? end : job->size, job->out, job->numbers);
}

/* Random numbers into an array, where an element's place counts: in C order. They depend on a clock, (1,). */
static PyObject *random_numbers(
    PyObject *const *args, Py_ssize_t given, int settings, Drawing *single, Drawing *twice)
{
    Arguments a;
    double numbers[6];
    int suited = parse(&a, args, given, "ri", 1, settings, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    suited = a.views[1].ndim == 1 && a.views[1].len == sizeof(int64_t);
    if (suited) {
        const Py_ssize_t itemsize = a.views[0].itemsize, block = 4 * LANES;
        const Draws job = {is_float(&a) ? single : twice, a.views[0].buf, numbers, a.views[0].len / itemsize};
        numbers[0] = (uint32_t)*(const int64_t *)a.views[1].buf;
        memcpy(numbers + 1, a.numbers, (size_t)settings * sizeof(double));
        BEGIN_LOOP
        share_out(some_draws, &job, (job.size + block - 1) / block, 1 + LEAST / (4 * block * itemsize));
        END_LOOP
    }
    return finish(&a, suited);
}

static PyObject *dropout_mask(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    return random_numbers(args, given, 5, dropout_mask_float, dropout_mask_double);
}

static PyObject *uniform(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    return random_numbers(args, given, 3, uniform_float, uniform_double);
}

/* clock <- clock + passes. clock: (1,) */
static PyObject *advance(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    const int suited = parse(&a, args, given, "i", 1, 1, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    if (a.views[0].len == sizeof(int64_t))
        *(int64_t *)a.views[0].buf += (int64_t)a.numbers[0];
    return finish(&a, a.views[0].len == sizeof(int64_t));
}

typedef struct {
    const char *x;
    Py_ssize_t itemsize;
    int (*loop)(Py_ssize_t, const void *);
    int *failed;
} Check;

static void check_some(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Check *job = given;
    if (!job->loop(stop - first, job->x + first * job->itemsize))
        raise_flag(job->failed);
}

static PyObject *is_finite(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    int failed = 0;
    (void)module;
    int suited = parse(&a, args, given, "r", 0, 0, PyBUF_STRIDES);
    if (suited <= 0)
        return suited ? NULL : refusal();
    suited = dense(&a.views[0]);
    if (suited) {
        const Py_ssize_t itemsize = a.views[0].itemsize;
        const Check job = {a.views[0].buf, itemsize, is_float(&a) ? is_finite_float : is_finite_double, &failed};
        BEGIN_LOOP
        share_out(check_some, &job, a.views[0].len / itemsize, LEAST / itemsize);
        END_LOOP
    }
    release(&a);
    return suited ? PyBool_FromLong(!failed) : refusal();
}

/* --- matrices ------------------------------------------------------------------------------------------------- */

static Py_ssize_t step_of(const Py_buffer *view, int axis)
{
    return view->shape[axis] > 1 ? view->strides[axis] / view->itemsize : axis == view->ndim - 1;
}

static int whole_steps(const Py_buffer *view)
{
    int whole = 1;
    for (int axis = 0; axis < view->ndim; axis++)
        whole &= view->strides[axis] % view->itemsize == 0;
    return whole;
}

/* Products of stacks of matrices, whose leading axes are those of c. One matrix b may serve all of a stack. */
typedef struct {
    Product first;
    const Products *loops;
    const Py_buffer *views[3];
} Stack;

static void *matrix(const Py_buffer *view, const Py_buffer *stack, Py_ssize_t number)
{
    char *memory = view->buf;
    for (int axis = view->ndim - 3; axis >= 0; axis--) {
        memory += number % stack->shape[axis] * view->strides[axis];
        number /= stack->shape[axis];
    }
    return memory;
}

static Product product_in(const Stack *stack, Py_ssize_t number)
{
    Product one = stack->first;
    one.a = matrix(stack->views[0], stack->views[2], number);
    one.b = matrix(stack->views[1], stack->views[2], number);
    one.c = matrix(stack->views[2], stack->views[2], number);
    return one;
}

static void some_products(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Stack *stack = given;
    for (Py_ssize_t number = first; number < stop; number++) {
        const Product one = product_in(stack, number);
        stack->loops->rows(&one, 0, (one.m + stack->loops->height - 1) / stack->loops->height);
    }
}

/* a: (..., m, k), b: (..., k, n) or (k, n), c: (..., m, n), bias: (n,) */
static PyObject *product(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, given == 5 ? "rrrr" : "rrr", 4, 1, PyBUF_STRIDES);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *left = &a.views[0], *right = &a.views[1], *out = &a.views[2];
    const Py_buffer *bias = a.count == 4 ? &a.views[3] : NULL;
    const Products *loops = products(is_float(&a));
    const int rows = out->ndim - 2, columns = out->ndim - 1, last = right->ndim - 1;
    suited = loops && rows >= 0 && left->ndim == out->ndim && (right->ndim == out->ndim || right->ndim == 2) &&
             left->shape[columns] == right->shape[last - 1] && out->shape[rows] == left->shape[rows] &&
             out->shape[columns] == right->shape[last] && whole_steps(left) && whole_steps(right) && whole_steps(out) &&
             step_of(out, columns) == 1 &&
             (!bias || (bias->ndim == 1 && bias->shape[0] == out->shape[columns] && step_of(bias, 0) == 1));
    Py_ssize_t count = 1;
    for (int axis = 0; suited && axis < rows; axis++) {
        suited = left->shape[axis] == out->shape[axis] && (right->ndim == 2 || right->shape[axis] == out->shape[axis]);
        count *= out->shape[axis];
    }
    if (suited) {
        const Stack stack = {
            {left->buf, right->buf, bias ? bias->buf : NULL, out->buf, out->shape[rows], out->shape[columns],
                left->shape[columns], {step_of(left, rows), step_of(left, columns)},
                {step_of(right, last - 1), step_of(right, last)}, step_of(out, rows), a.numbers[0] != 0},
            loops, {left, right, out}};
        const double each = (double)stack.first.m * (double)stack.first.n * (double)stack.first.k;
        BEGIN_LOOP
        if (count > 1 && each < 1 << 22)
            share_out(some_products, &stack, count, 1 + (Py_ssize_t)((1 << 18) / (each + 1)));
        else
            for (Py_ssize_t number = 0; number < count; number++) {
                const Product one = product_in(&stack, number);
                share_product(loops, &one);
            }
        END_LOOP
    }
    return finish(&a, suited);
}

/* --- loops over rows ------------------------------------------------------------------------------------------- */

/* n rows, `line` elements apart, of so many columns, which are worked on one by one */
typedef void Columnwise(Py_ssize_t n, Py_ssize_t line, Py_ssize_t columns, void *const *arrays, const double *numbers);

typedef struct {
    Columnwise *loop;
    void *arrays[MOST_ARRAYS];
    Py_ssize_t n, line, itemsize;
    const double *numbers;
} Columns;

/* Bytes of each row that stay with one thread. Two threads would take the same lines of the cache, or those beside them
   that a processor fetches unasked, from each other in every row. */
enum { STRIP = 4 * CACHE_LINE };

static void some_columns(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Columns *job = given;
    const Py_ssize_t unit = STRIP / job->itemsize, left = first * unit;
    const Py_ssize_t right = stop * unit < job->line ? stop * unit : job->line;
    void *arrays[MOST_ARRAYS];
    for (int i = 0; i < MOST_ARRAYS; i++)
        arrays[i] = job->arrays[i] ? (char *)job->arrays[i] + left * job->itemsize : NULL;
    job->loop(job->n, job->line, right - left, arrays, job->numbers);
}

static void share_columns(const Columns *job)
{
    const Py_ssize_t unit = STRIP / job->itemsize;
    share_out(some_columns, job, (job->line + unit - 1) / unit, 1 + LEAST / (job->n * STRIP + 1));
}

/* dy: (n, columns), db: (columns,) */
static PyObject *sum_rows(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rr", 2, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *y = &a.views[0], *b = &a.views[1];
    suited = y->ndim == 2 && b->ndim == 1 && b->shape[0] == y->shape[1] && b->shape[0] > 1; /* NumPy sums one in pairs */
    if (suited) {
        const Columns job = {
            is_float(&a) ? sum_rows_float : sum_rows_double, {y->buf, b->buf}, y->shape[0], y->shape[1], y->itemsize, NULL};
        BEGIN_LOOP
        share_columns(&job);
        END_LOOP
    }
    return finish(&a, suited);
}

/* dy: (n, columns), ids: (n,), dW: (vocabulary, columns) */
static PyObject *sum_by_id(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rir", 4, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *dy = &a.views[0], *ids = &a.views[1], *dW = &a.views[2];
    suited = dy->ndim == 2 && ids->ndim == 1 && dW->ndim == 2 && ids->shape[0] == dy->shape[0] &&
             dW->shape[1] == dy->shape[1] && within(ids, dW->shape[0]);
    if (suited) {
        BEGIN_LOOP
        memset(dW->buf, 0, (size_t)dW->len);
        if (is_float(&a))
            sum_by_id_float(dy->shape[0], dy->shape[1], dy->buf, ids->buf, dW->buf);
        else
            sum_by_id_double(dy->shape[0], dy->shape[1], dy->buf, ids->buf, dW->buf);
        END_LOOP
    }
    return finish(&a, suited);
}

/* Matrices of n rows, of as many columns as the last has, or as many times as many as a digit of `widths` says; for '0'
   a single row. */
static int rows_of_gates(const Arguments *a, const char *widths)
{
    const Py_buffer *last = &a->views[a->count - 1];
    int suited = last->ndim == 2;
    for (int i = 0; suited && i < a->count; i++) {
        const Py_buffer *view = &a->views[i];
        suited = widths[i] == '0' ? view->ndim == 1 && view->shape[0] == last->shape[1]
                                  : view->ndim == 2 && view->shape[0] == last->shape[0] &&
                                        view->shape[1] == (widths[i] - '0') * last->shape[1];
    }
    return suited;
}

static PyObject *gates(
    PyObject *const *args, Py_ssize_t given, const char *kinds, const char *widths, int writes, Gates *single, Gates *twice)
{
    Arguments a;
    int suited = parse(&a, args, given, kinds, writes, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    suited = rows_of_gates(&a, widths);
    if (suited) {
        const Py_buffer *last = &a.views[a.count - 1];
        void *memory[MOST_ARRAYS];
        for (int i = 0; i < a.count; i++)
            memory[i] = a.views[i].buf;
        BEGIN_LOOP
        (is_float(&a) ? single : twice)(last->shape[0], last->shape[1], 0, last->shape[1], memory);
        END_LOOP
    }
    return finish(&a, suited);
}

#define GATES(name, kinds, widths, writes)                                                         \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)               \
    {                                                                                              \
        (void)module;                                                                              \
        return gates(args, given, kinds, widths, writes, name##_float, name##_double);             \
    }

GATES(lstm_gates, "rrrrrr", "441411", 8 | 16 | 32)
GATES(lstm_gates_backward, "rrrrrrr", "1141141", 32 | 64)
GATES(gru_gates, "rrrrrr", "330141", 16 | 32)
GATES(gru_gates_backward, "rrrrrr", "141331", 8 | 16 | 32)

/* --- recurrent networks ---------------------------------------------------------------------------------------- */

enum { NOTHING = -1, SCRATCH = -2 };

/* An argument at a step: the number `steps` later. */
typedef struct {
    int argument, later;
} Place;

/* How the steps of a kind of network follow each other. Each argument but the last, Wh, (h, parts h), is a sequence,
   (steps, n, columns): `leads` has '1' for one that begins with the state before the first step, '0' for others, 'r' for
   a row (h,); `widths` how many times h its columns are. scratch: (n, parts h), zeros at first. */
typedef struct {
    const char *kinds, *leads, *widths;
    int writes, parts, backward;
    Gates *single, *twice;
    Place state, c, arrays[MOST_ARRAYS];
} Recurrence;

static Py_ssize_t steps_of(const Py_buffer *first, const Recurrence *what)
{
    return first->shape[0] - (what->leads[0] == '1');
}

static int suits(const Arguments *a, const Recurrence *what)
{
    const Py_buffer *first = &a->views[0], *Wh = &a->views[a->count - 1];
    if (first->ndim != 3 || Wh->ndim != 2 || Wh->shape[0] < 1 || Wh->shape[1] != what->parts * Wh->shape[0] ||
        !whole_steps(Wh))
        return 0;
    const Py_ssize_t steps = steps_of(first, what), n = first->shape[1], h = Wh->shape[0];
    int suited = steps >= 1;
    for (int i = 0; suited && i < a->count - 1; i++) {
        const Py_buffer *view = &a->views[i];
        suited = PyBuffer_IsContiguous(view, 'C') &&
                 (what->leads[i] == 'r' ? view->ndim == 1 && view->shape[0] == h
                                        : view->ndim == 3 && view->shape[0] == steps + (what->leads[i] == '1') &&
                                              view->shape[1] == n && view->shape[2] == (what->widths[i] - '0') * h);
    }
    return suited;
}

typedef struct {
    const Recurrence *what;
    const Products *loops;
    const Py_buffer *views;
    char *scratch;
    Py_ssize_t steps, units; /* units of columns */
    Step step;
} Run;

/* Where an argument is for the rows from `row` on. */
static void *at(const Run *run, Place place, Py_ssize_t t, Py_ssize_t row)
{
    if (place.argument == NOTHING)
        return NULL;
    const Py_buffer *view = &run->views[place.argument < 0 ? 0 : place.argument];
    if (place.argument == SCRATCH)
        return run->scratch + row * run->what->parts * run->step.h * view->itemsize;
    if (run->what->leads[place.argument] == 'r')
        return view->buf;
    return (char *)view->buf + ((t + place.later) * view->shape[1] + row) * view->shape[2] * view->itemsize;
}

static Step step_at(const Run *run, Py_ssize_t turn, Py_ssize_t row, Py_ssize_t rows)
{
    const Recurrence *what = run->what;
    const Py_ssize_t t = what->backward ? run->steps - 1 - turn : turn;
    Step step = run->step;
    step.n = rows;
    step.state = what->backward && turn == 0 ? NULL : at(run, what->state, t, row); /* no gradient comes from behind */
    step.c = at(run, what->c, t, row);
    for (int i = 0; i < MOST_ARRAYS; i++)
        step.arrays[i] = at(run, what->arrays[i], t, row);
    return step;
}

/* All steps of some rows, which know nothing of the others. */
static void run_rows(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Run *run = given;
    for (Py_ssize_t turn = 0; turn < run->steps; turn++) {
        const Step step = step_at(run, turn, first, stop - first);
        run->loops->step(&step, 0, run->units);
    }
}

/* The threads share the rows, if each has a tile of them at least: then they need not wait for each other after every
   step. Otherwise they share the columns. */
static void run_steps(const Run *run)
{
    const Step *step = &run->step;
    const Py_ssize_t least = 1 + (1 << 16) / (step->n * step->k * step->parts * run->loops->width + 1);
    share_out(run->loops->prepare, step, run->units, least);
    if (step->n >= run->loops->height * threads_wanted()) {
        share_out(run_rows, run, step->n, run->loops->height);
        return;
    }
    for (Py_ssize_t turn = 0; turn < run->steps; turn++) {
        const Step now = step_at(run, turn, 0, step->n);
        share_out(run->loops->step, &now, run->units, least);
    }
}

static PyObject *recurrence(PyObject *const *args, Py_ssize_t given, const Recurrence *what)
{
    Arguments a;
    int suited = parse(&a, args, given, what->kinds, what->writes, 0, PyBUF_STRIDES);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Products *loops = products(is_float(&a));
    if (!loops || !suits(&a, what))
        return finish(&a, 0);
    const Py_buffer *first = &a.views[0], *Wh = &a.views[a.count - 1];
    const Py_ssize_t steps = steps_of(first, what), n = first->shape[1], h = Wh->shape[0];
    const Py_ssize_t units = (h + loops->width - 1) / loops->width, itemsize = first->itemsize;
    Step step = {
        .W = Wh->buf, .n = n, .h = h, .k = what->backward ? Wh->shape[1] : h, .parts = what->backward ? 1 : what->parts,
        .W_step = {step_of(Wh, what->backward), step_of(Wh, !what->backward)}, .more = what->c.argument != SCRATCH,
        .gates = is_float(&a) ? what->single : what->twice};
    const size_t panels = (size_t)(step.parts * units * loops->width * step.k * itemsize);
    const size_t scratch = (size_t)(n * what->parts * h * itemsize);
    void *const memory = malloc(panels + scratch + CACHE_LINE);
    if (memory) {
        step.panels = on_cache_line(memory);
        const Run run = {what, loops, a.views, (char *)step.panels + panels, steps, units, step};
        BEGIN_LOOP
        memset(run.scratch, 0, scratch);
        run_steps(&run);
        END_LOOP
        free(memory);
    }
    return finish(&a, memory != NULL);
}

#define RECURRENCE(name, ...)                                                                       \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)                \
    {                                                                                               \
        static const Recurrence what = {__VA_ARGS__};                                               \
        (void)module;                                                                               \
        return recurrence(args, given, &what);                                                      \
    }

RECURRENCE(rnn, "rrr", "01", "11", 1 | 2, 1, 0, rnn_step_float, rnn_step_double, {1, 0}, {0, 0}, {{0, 0}, {1, 1}})
RECURRENCE(
    rnn_backward, "rrrr", "110", "111", 1 | 4, 1, 1, rnn_step_backward_float, rnn_step_backward_double, {2, 1}, {0, 1},
    {{0, 1}, {1, 1}, {2, 0}})
RECURRENCE(
    lstm, "rrrr", "011", "411", 1 | 2 | 4, 4, 0, lstm_gates_float, lstm_gates_double, {1, 0}, {0, 0},
    {{0, 0}, {NOTHING, 0}, {2, 0}, {0, 0}, {2, 1}, {1, 1}})
RECURRENCE(
    lstm_backward, "rrrrr", "1010", "1414", 1 | 8, 4, 1, lstm_gates_backward_float, lstm_gates_backward_double, {3, 1},
    {0, 1}, {{0, 1}, {SCRATCH, 0}, {1, 0}, {2, 0}, {2, 1}, {3, 0}, {SCRATCH, 0}})
RECURRENCE(
    gru, "rrrrr", "010r", "3141", 2 | 4, 3, 0, gru_gates_float, gru_gates_double, {1, 0}, {SCRATCH, 0},
    {{0, 0}, {SCRATCH, 0}, {3, 0}, {1, 0}, {2, 0}, {1, 1}})
RECURRENCE(
    gru_backward, "rrrrrr", "10100", "14133", 1 | 8 | 16, 3, 1, gru_gates_backward_float, gru_gates_backward_double,
    {4, 1}, {0, 1}, {{0, 1}, {1, 0}, {2, 0}, {3, 0}, {4, 0}, {0, 0}})

/* --- loops over rows, each alone --------------------------------------------------------------------------------- */

typedef void Rowwise(Py_ssize_t n, Py_ssize_t columns, void *const *arrays, const double *numbers);

typedef struct {
    Rowwise *loop;
    void *arrays[MOST_ARRAYS];
    Py_ssize_t steps[MOST_ARRAYS], columns; /* bytes from row to row */
    const double *numbers;
} Rows;

static void some_rows(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Rows *job = given;
    void *arrays[MOST_ARRAYS];
    for (int i = 0; i < MOST_ARRAYS; i++)
        arrays[i] = job->arrays[i] ? (char *)job->arrays[i] + first * job->steps[i] : NULL;
    job->loop(stop - first, job->columns, arrays, job->numbers);
}

/* Are the arrays what `forms` says? 'x': of the shape of the first, (..., columns), which is not empty; 'c': (columns,);
   '1': (..., 1); 't': labels, (n,), of n rows; '?': another array. Describe them, and return the number of rows, or 0. */
static Py_ssize_t rows_of(const Arguments *a, const char *forms, Rows *job)
{
    const Py_buffer *x = &a->views[0];
    const int last = x->ndim - 1;
    int suited = x->ndim > 0 && x->len > 0;
    for (int i = 0; suited && i < a->count; i++) {
        const Py_buffer *view = &a->views[i];
        job->arrays[i] = view->buf;
        if (forms[i] == '?')
            continue;
        job->steps[i] = forms[i] == 'c' ? 0 : forms[i] == 'x' ? x->shape[last] * x->itemsize : view->itemsize;
        if (forms[i] == 'x')
            suited = same_shape(view, x);
        else if (forms[i] == 'c')
            suited = view->ndim == 1 && view->shape[0] == x->shape[last];
        else if (forms[i] == 't')
            suited = x->ndim == 2 && view->ndim == 1 && view->shape[0] == x->shape[0] && within(view, x->shape[1]);
        else {
            suited = view->ndim == x->ndim && view->shape[last] == 1;
            for (int axis = 0; suited && axis < last; axis++)
                suited = view->shape[axis] == x->shape[axis];
        }
    }
    if (!suited)
        return 0;
    job->columns = x->shape[last];
    job->numbers = a->numbers;
    return x->len / x->itemsize / job->columns;
}

static void share_rows(const Rows *job, Py_ssize_t n)
{
    share_out(some_rows, job, n, 1 + LEAST / (job->steps[0] + 1));
}

static PyObject *rowwise(
    PyObject *const *args, Py_ssize_t given, const char *kinds, const char *forms, int writes, int numbers,
    Rowwise *single, Rowwise *twice)
{
    Arguments a;
    Rows job = {0};
    int suited = parse(&a, args, given, kinds, writes, numbers, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_ssize_t n = rows_of(&a, forms, &job);
    if (n) {
        job.loop = is_float(&a) ? single : twice;
        BEGIN_LOOP
        share_rows(&job, n);
        END_LOOP
    }
    return finish(&a, n != 0);
}

#define ROWWISE(name, kinds, forms, writes, numbers)                                                      \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)                      \
    {                                                                                                     \
        (void)module;                                                                                     \
        return rowwise(args, given, kinds, forms, writes, numbers, name##_float, name##_double);          \
    }

ROWWISE(add_bias, "rr", "xc", 1, 0)
ROWWISE(softmax, "rr", "xx", 2, 0)
ROWWISE(softmax_backward, "rrr", "xxx", 4, 0)
ROWWISE(layer_normalization, "rrrrrr", "xccxx1", 8 | 16 | 32, 1)

static PyObject *layer_normalization_backward(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    Rows job = {0};
    (void)module;
    int suited = parse(&a, args, given, "rrrrrrr", 16 | 32 | 64, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_ssize_t n = rows_of(&a, "xxc1xcc", &job);
    if (n) {
        const int single = is_float(&a);
        const Columns sums = {
            single ? normalization_sums_float : normalization_sums_double,
            {job.arrays[0], job.arrays[1], job.arrays[5], job.arrays[6]}, n, job.columns, a.views[0].itemsize, NULL};
        job.loop = single ? layer_normalization_backward_float : layer_normalization_backward_double;
        BEGIN_LOOP
        share_rows(&job, n);
        share_columns(&sums);
        END_LOOP
    }
    return finish(&a, n != 0);
}

/* Arrays of the layout of the first, (..., channels), as `forms` says 'x', and rows of numbers of the channels, 'c'. In
   memory, a channel is a run of elements, or a column. */
static PyObject *channelwise(
    PyObject *const *args, Py_ssize_t given, const char *kinds, const char *forms, int writes, int numbers,
    Rowwise *const runs[2], Columnwise *const columns[2])
{
    Arguments a;
    int suited = parse(&a, args, given, kinds, writes, numbers, PyBUF_STRIDES);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *x = &a.views[0];
    suited = x->ndim > 1 && x->len > 0 && dense(x);
    const Py_ssize_t channels = suited ? x->shape[x->ndim - 1] : 1, run = suited ? x->len / x->itemsize / channels : 1;
    const int apart = suited && (channels == 1 || x->strides[x->ndim - 1] == run * x->itemsize);
    Rows rows = {.loop = runs[!is_float(&a)], .columns = run, .numbers = a.numbers};
    Columns beside = {columns[!is_float(&a)], {0}, run, channels, x->itemsize, a.numbers};
    suited = suited && (apart || PyBuffer_IsContiguous(x, 'C'));
    for (int i = 0; suited && i < a.count; i++) {
        const Py_buffer *view = &a.views[i];
        suited = forms[i] == 'x' ? same_layout(view, x)
                                 : view->ndim == 1 && view->shape[0] == channels && PyBuffer_IsContiguous(view, 'C');
        rows.arrays[i] = beside.arrays[i] = view->buf;
        rows.steps[i] = forms[i] == 'x' ? run * x->itemsize : x->itemsize;
    }
    if (suited) {
        BEGIN_LOOP
        if (apart)
            share_rows(&rows, channels);
        else
            share_columns(&beside);
        END_LOOP
    }
    return finish(&a, suited);
}

#define CHANNELWISE(name, kinds, forms, writes, numbers)                                                    \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)                        \
    {                                                                                                       \
        static Rowwise *const runs[] = {name##_float, name##_double};                                       \
        static Columnwise *const columns[] = {name##_columns_float, name##_columns_double};                 \
        (void)module;                                                                                       \
        return channelwise(args, given, kinds, forms, writes, numbers, runs, columns);                      \
    }

CHANNELWISE(batch_normalization, "rrrrrrrr", "xccxxccc", 8 | 16 | 32 | 64 | 128, 1)
CHANNELWISE(batch_normalization_backward, "rrrrrrr", "xxccxcc", 16 | 32 | 64, 0)

static double total(const double *values, Py_ssize_t n)
{
    double sum = 0;
    for (Py_ssize_t i = 0; i < n; i++)
        sum += values[i];
    return sum;
}

static PyObject *softmax_cross_entropy(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    Rows job = {0};
    double loss = 0, *losses = NULL;
    (void)module;
    int suited = parse(&a, args, given, "rir", 4, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_ssize_t n = rows_of(&a, "xtx", &job);
    if (n)
        losses = malloc((size_t)n * sizeof *losses);
    if (losses) {
        job.loop = is_float(&a) ? softmax_cross_entropy_float : softmax_cross_entropy_double;
        job.arrays[3] = losses;
        job.steps[3] = sizeof *losses;
        BEGIN_LOOP
        share_rows(&job, n);
        loss = total(losses, n) / (double)n;
        END_LOOP
    }
    free(losses);
    release(&a);
    return losses ? PyFloat_FromDouble(loss) : refusal();
}

static PyObject *softmax_cross_entropy_backward(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    Rows job = {0};
    (void)module;
    int suited = parse(&a, args, given, "rir", 4, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_ssize_t n = rows_of(&a, "xtx", &job);
    if (n) {
        const double count = (double)n;
        job.loop = is_float(&a) ? softmax_cross_entropy_backward_float : softmax_cross_entropy_backward_double;
        job.numbers = &count;
        BEGIN_LOOP
        share_rows(&job, n);
        END_LOOP
    }
    return finish(&a, n != 0);
}

/* metrics: (2 or more, steps), of which it writes two elements of column `at` */
static PyObject *softmax_cross_entropy_recorded(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    Rows job = {0};
    double *losses = NULL;
    (void)module;
    int suited = parse(&a, args, given, "rirr", 4 | 8, 1, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer metrics = a.views[3];
    const double at = a.numbers[0];
    suited = metrics.ndim == 2 && metrics.shape[0] >= 2 && at >= 0 && at < (double)metrics.shape[1];
    const Py_ssize_t n = suited ? rows_of(&a, "xtx?", &job) : 0;
    if (n)
        losses = malloc((size_t)n * 2 * sizeof *losses);
    if (losses) {
        const double count = (double)n;
        job.loop = is_float(&a) ? softmax_cross_entropy_recorded_float : softmax_cross_entropy_recorded_double;
        job.numbers = &count;
        job.arrays[3] = losses;
        job.arrays[4] = losses + n;
        job.steps[3] = job.steps[4] = sizeof *losses;
        BEGIN_LOOP
        share_rows(&job, n);
        for (int i = 0; i < 2; i++) {
            const double value = i ? total(losses + n, n) : total(losses, n) / count;
            void *const place = (char *)metrics.buf + (i * metrics.shape[1] + (Py_ssize_t)at) * metrics.itemsize;
            if (is_float(&a))
                *(float *)place = (float)value;
            else
                *(double *)place = value;
        }
        END_LOOP
    }
    free(losses);
    return finish(&a, losses != NULL);
}

typedef struct {
    Py_ssize_t shape[3]; /* k, classes, n */
    void *memory[5];
    int failed; /* for want of memory */
} Variants;

#define SOME_VARIANTS(type)                                                                                  \
    static void some_variants_##type(const void *given, Py_ssize_t first, Py_ssize_t stop)                    \
    {                                                                                                         \
        Variants *job = (Variants *)given;                                                                    \
        const Py_ssize_t classes = job->shape[1], n = job->shape[2], shape[] = {stop - first, classes, n};    \
        type *dx = (type *)job->memory[1] + first * n, *w = (type *)job->memory[2] + first * classes;         \
        type *losses = (type *)job->memory[4] + first * n;                                                    \
        void *const memory[] = {job->memory[0], dx, w, job->memory[3], losses};                               \
        /* the rows first, since they may need more alignment than the numbers */                             \
        int64_t *rows = malloc((size_t)n * (3 * sizeof *rows + (size_t)(classes + 3) * sizeof(type)));         \
        if (rows)                                                                                             \
            softmax_cross_entropy_variants_##type(shape, memory, (type *)(rows + 3 * n), rows);               \
        else                                                                                                  \
            raise_flag(&job->failed);                                                                         \
        free(rows);                                                                                           \
    }

SOME_VARIANTS(float)
SOME_VARIANTS(double)

/* y: (classes, n); dx, losses: (k, n); w: (k, classes); t: (n,) */
static PyObject *softmax_cross_entropy_variants(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rrrir", 16, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *y = &a.views[0], *dx = &a.views[1], *w = &a.views[2], *t = &a.views[3], *losses = &a.views[4];
    suited = y->ndim == 2 && y->len > 0 && dx->ndim == 2 && dx->shape[1] == y->shape[1] && w->ndim == 2 &&
             w->shape[0] == dx->shape[0] && w->shape[1] == y->shape[0] && t->ndim == 1 &&
             t->shape[0] == y->shape[1] && same_shape(losses, dx) && within(t, y->shape[0]);
    if (suited) {
        Variants job = {
            {dx->shape[0], y->shape[0], y->shape[1]}, {y->buf, dx->buf, w->buf, t->buf, losses->buf}, 0};
        const Py_ssize_t least = 1 + (1 << 14) / (job.shape[1] * job.shape[2]);
        BEGIN_LOOP
        share_out(is_float(&a) ? some_variants_float : some_variants_double, &job, job.shape[0], least);
        END_LOOP
        suited = !job.failed;
    }
    return finish(&a, suited);
}

typedef struct {
    char *out;
    const char *x;
    const int64_t *rows;
    Py_ssize_t bytes;
} Gathering;

/* Row after row, the next one on its way from memory while this one is copied. Each comes from another place, where no
   processor looks for it by itself. */
static void gather_rows(const void *given, Py_ssize_t first, Py_ssize_t stop)
{
    const Gathering *job = given;
    const Py_ssize_t bytes = job->bytes;
    for (Py_ssize_t i = first; i < stop; i++) {
        for (Py_ssize_t next = 0; i + 1 < stop && next < bytes; next += 64)
            PREFETCH(job->x + job->rows[i + 1] * bytes + next);
        memcpy(job->out + i * bytes, job->x + job->rows[i] * bytes, (size_t)bytes);
    }
}

/* out <- x[rows]. x: (n, ...), of numbers; rows: (k,); out: (k, ...) */
static PyObject *gather(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "nin", 4, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *x = &a.views[0], *rows = &a.views[1], *out = &a.views[2];
    suited = x->ndim > 0 && x->len > 0 && rows->ndim == 1 && out->ndim == x->ndim &&
             out->shape[0] == rows->shape[0] && within(rows, x->shape[0]);
    for (int axis = 1; suited && axis < x->ndim; axis++)
        suited = out->shape[axis] == x->shape[axis];
    if (suited) {
        const Gathering job = {out->buf, x->buf, rows->buf, x->len / x->shape[0]};
        BEGIN_LOOP
        share_out(gather_rows, &job, rows->shape[0], 1 + LEAST / (job.bytes + 1));
        END_LOOP
    }
    return finish(&a, suited);
}

/* --- images, (c, h, w, n) -------------------------------------------------------------------------------------- */

/* Loops over windows, whose numbers are height, width and the strides down and right. results, images: arrays of the
   shape of y, and of x. */
static int pool(Arguments *a, const Py_buffer *results, const Py_buffer *images, Work *single, Work *twice)
{
    int suited = results->ndim == 4 && images->ndim == 4 && results->shape[0] == images->shape[0] &&
                 results->shape[3] == images->shape[3];
    for (int axis = 0; axis < 2; axis++) {
        const double window = a->numbers[axis], stride = a->numbers[2 + axis];
        suited = suited && window >= 1 && stride >= 1 && window <= INT_MAX && stride <= INT_MAX &&
                 (double)(results->shape[1 + axis] - 1) * stride + window <= (double)images->shape[1 + axis];
    }
    if (suited) {
        Pooling job = {
            results->shape, images->shape, {NULL}, (Py_ssize_t)a->numbers[0], (Py_ssize_t)a->numbers[1],
            (Py_ssize_t)a->numbers[2], (Py_ssize_t)a->numbers[3]};
        for (int i = 0; i < a->count; i++)
            job.arrays[i] = a->views[i].buf;
        BEGIN_EXACT_LOOP
        share_out(is_float(a) ? single : twice, &job, images->shape[0],
            1 + 2 * LEAST * images->shape[0] / (images->len + 1));
        END_LOOP
    }
    return suited;
}

/* x: (c, h, w, n), y: (c, h', w', n) */
static PyObject *max_pooling(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    const int suited = parse(&a, args, given, "rr", 2, 4, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    return finish(&a, pool(&a, &a.views[1], &a.views[0], max_pooling_float, max_pooling_double));
}

/* dy, y: (c, h', w', n); x and dx: (c, h, w, n) */
static PyObject *max_pooling_backward(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    const int suited = parse(&a, args, given, "rrrr", 8, 4, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    return finish(
        &a, same_shape(&a.views[0], &a.views[2]) && same_shape(&a.views[1], &a.views[3]) &&
                pool(&a, &a.views[0], &a.views[1], max_pooling_backward_float, max_pooling_backward_double));
}

/* x: (n, p, c), y: (c, p, n) */
static PyObject *swap_ends(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rr", 2, 0, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *x = &a.views[0], *y = &a.views[1];
    suited = x->ndim == 3 && y->ndim == 3 && x->shape[0] == y->shape[2] && x->shape[1] == y->shape[1] &&
             x->shape[2] == y->shape[0];
    if (suited && x->len) {
        const Swap job = {x->buf, y->buf, x->shape[0], x->shape[1], x->shape[2]};
        BEGIN_EXACT_LOOP
        share_out(is_float(&a) ? swap_ends_float : swap_ends_double, &job, job.positions,
            1 + LEAST * job.positions / x->len);
        END_LOOP
    }
    return finish(&a, suited);
}

/* x: (c, h, w, n), W: (height, width, c, o), b: (o,), y: (o, lines, columns, n); strides and padding */
static PyObject *convolution(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rrrr", 8, 4, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *x = &a.views[0], *W = &a.views[1], *b = &a.views[2], *y = &a.views[3];
    const Py_ssize_t itemsize = x->itemsize;
    suited = HAS_VECTORS && x->ndim == 4 && W->ndim == 4 && b->ndim == 1 && y->ndim == 4 && x->len > 0 && W->len > 0 && y->len > 0 &&
             W->shape[2] == x->shape[0] && W->shape[3] == b->shape[0] && y->shape[0] == b->shape[0] &&
             y->shape[3] == x->shape[3] && x->shape[3] * itemsize >= 2 * VECTOR;
    for (int axis = 0; suited && axis < 2; axis++) {
        const double stride = a.numbers[axis], padding = a.numbers[2 + axis];
        suited = stride >= 1 && padding >= 0 && stride <= INT_MAX && padding <= INT_MAX &&
                 (double)(y->shape[1 + axis] - 1) * stride + (double)W->shape[axis] <=
                     (double)x->shape[1 + axis] + 2 * padding;
    }
    const Py_ssize_t lanes = 2 * VECTOR / itemsize, blocks = suited ? (x->shape[3] + lanes - 1) / lanes : 0;
    void *work = suited ? malloc((size_t)(x->len / x->shape[3] * blocks * lanes)) : NULL;
    if (work) {
        const Convolution job = {
            x->buf, W->buf, b->buf, y->buf, work, x->shape[0], x->shape[1], x->shape[2], x->shape[3], y->shape[0],
            y->shape[1], y->shape[2], W->shape[0], W->shape[1], (Py_ssize_t)a.numbers[0], (Py_ssize_t)a.numbers[1],
            (Py_ssize_t)a.numbers[2], (Py_ssize_t)a.numbers[3]};
        const Py_ssize_t products = W->len / itemsize * job.columns * job.n; /* for a line */
        BEGIN_LOOP
        share_out(is_float(&a) ? convolution_blocks_float : convolution_blocks_double, &job, job.h,
            1 + 2 * LEAST * job.h / x->len);
        share_out(is_float(&a) ? convolution_lines_float : convolution_lines_double, &job, job.lines,
            1 + (1 << 21) / products);
        END_LOOP
        free(work);
    }
    return finish(&a, work != NULL);
}

/* x: (c, h, w, n) with its padding, dy: (o, lines, columns, n), dW: (height, width, c, o), db: (o,); the stride down */
static PyObject *convolution_filters(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rrrr", 4 | 8, 1, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *x = &a.views[0], *dy = &a.views[1], *dW = &a.views[2], *db = &a.views[3];
    const double down = a.numbers[0];
    suited = HAS_VECTORS && x->ndim == 4 && dy->ndim == 4 && dW->ndim == 4 && db->ndim == 1 && dW->shape[2] == x->shape[0] &&
             dW->shape[3] == db->shape[0] && dy->shape[0] == db->shape[0] && dy->shape[3] == x->shape[3] && down >= 1 &&
             down <= INT_MAX && dy->len > 0 && (double)(dy->shape[1] - 1) * down + (double)dW->shape[0] <= (double)x->shape[1] &&
             dy->shape[2] - 1 + dW->shape[1] <= x->shape[2];
    if (suited) {
        const Convolution job = {
            x->buf, dW->buf, db->buf, dy->buf, NULL, x->shape[0], x->shape[1], x->shape[2], x->shape[3], dy->shape[0],
            dy->shape[1], dy->shape[2], dW->shape[0], dW->shape[1], (Py_ssize_t)down, 1, 0, 0};
        const Py_ssize_t products = 4 * dW->len / x->itemsize / job.o * job.lines * job.columns * job.n;
        BEGIN_LOOP
        memset(dW->buf, 0, (size_t)dW->len);
        memset(db->buf, 0, (size_t)db->len);
        share_out(is_float(&a) ? convolution_filters_float : convolution_filters_double, &job, (job.o + 3) / 4,
            1 + (1 << 21) / (products + 1));
        END_LOOP
    }
    return finish(&a, suited);
}

/* x: (n, h, w, c); rows, columns: (n, h', w'); y: (n, h', w', c); what is seen outside of an image */
static PyObject *resample(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Arguments a;
    (void)module;
    int suited = parse(&a, args, given, "rrrr", 8, 1, PyBUF_C_CONTIGUOUS);
    if (suited <= 0)
        return suited ? NULL : refusal();
    const Py_buffer *x = &a.views[0], *rows = &a.views[1], *y = &a.views[3];
    suited = x->ndim == 4 && x->len > 0 && rows->ndim == 3 && same_shape(&a.views[2], rows) && y->ndim == 4 &&
             y->len > 0 && rows->shape[0] == x->shape[0] && y->shape[3] == x->shape[3];
    for (int axis = 0; suited && axis < 3; axis++)
        suited = y->shape[axis] == rows->shape[axis];
    if (suited) {
        const Resampling job = {
            x->buf, rows->buf, a.views[2].buf, y->buf, x->shape[0], x->shape[1], x->shape[2], x->shape[3],
            rows->shape[1] * rows->shape[2], a.numbers[0]};
        BEGIN_LOOP
        (is_float(&a) ? resample_float : resample_double)(&job);
        END_LOOP
    }
    return finish(&a, suited);
}

/* How many threads may share a loop. */
static PyObject *set_threads(PyObject *module, PyObject *count)
{
    const long most = PyLong_AsLong(count);
    (void)module;
    if (most == -1 && PyErr_Occurred())
        return NULL;
    BEGIN_LOOP
    use_threads(most);
    END_LOOP
    Py_RETURN_NONE;
}

/* Products in vectors of so many bytes, or fewer. */
static PyObject *use_vectors(PyObject *module, PyObject *bytes)
{
    const long most = PyLong_AsLong(bytes);
    (void)module;
    if (most == -1 && PyErr_Occurred())
        return NULL;
    widest = most < 64 ? 32 : 64;
    Py_RETURN_NONE;
}

/* --- the module ------------------------------------------------------------------------------------------------ */

#define METHOD(name, signature) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, #name signature}

static PyMethodDef methods[] = {
    METHOD(sgd, "(p, g, lr, decay)"),
    METHOD(momentum, "(p, g, v, lr, momentum, decay)"),
    METHOD(nesterov, "(p, g, v, lr, momentum, decay)"),
    METHOD(rmsprop, "(p, g, h, lr, alpha, share, eps, decay)"),
    METHOD(adam, "(p, g, m, v, lr, eps, beta1, beta2, decay, keep)"),
    METHOD(relu, "(x, y)"),
    METHOD(relu_backward, "(dy, y, dx)"),
    METHOD(leaky_relu, "(x, y, alpha)"),
    METHOD(leaky_relu_backward, "(dy, y, dx, alpha)"),
    METHOD(sigmoid, "(x, y)"),
    METHOD(sigmoid_backward, "(dy, y, dx)"),
    METHOD(gelu, "(x, y)"),
    METHOD(gelu_backward, "(dy, x, dx)"),
    METHOD(silu, "(x, y)"),
    METHOD(silu_backward, "(dy, x, dx)"),
    METHOD(dropout_mask, "(mask, clock, stream, key0, key1, limit, scale)"),
    METHOD(masked, "(x, mask, y)"),
    METHOD(advance, "(clock, passes)"),
    METHOD(uniform, "(out, clock, stream, key0, key1)"),
    METHOD(is_finite, "(x)"),
    METHOD(product, "(a, b, c[, bias], more)"),
    METHOD(add_bias, "(y, b)"),
    METHOD(sum_rows, "(dy, db)"),
    METHOD(softmax, "(x, y)"),
    METHOD(softmax_backward, "(dy, y, dx)"),
    METHOD(batch_normalization, "(x, gamma, beta, y, x_hat, scale, mean, var, eps)"),
    METHOD(batch_normalization_backward, "(dy, x_hat, gamma, scale, dx, dgamma, dbeta)"),
    METHOD(layer_normalization, "(x, gamma, beta, y, x_hat, scale, eps)"),
    METHOD(layer_normalization_backward, "(dy, x_hat, gamma, scale, dx, dgamma, dbeta)"),
    METHOD(softmax_cross_entropy, "(x, t, y)"),
    METHOD(softmax_cross_entropy_backward, "(y, t, dx)"),
    METHOD(softmax_cross_entropy_recorded, "(x, t, dx, metrics, at)"),
    METHOD(softmax_cross_entropy_variants, "(y, dx, w, t, losses)"),
    METHOD(lstm_gates, "(a, r, c, gates, c_next, h)"),
    METHOD(lstm_gates_backward, "(dh, dc, gates, c, c_next, da, dc_before)"),
    METHOD(gru_gates, "(a, r, bh, h, gates, h_next)"),
    METHOD(gru_gates_backward, "(dh, gates, h, da, dr, past)"),
    METHOD(rnn, "(a, hidden, Wh)"),
    METHOD(rnn_backward, "(dh, hidden, da, Wh)"),
    METHOD(lstm, "(gates, hidden, cells, Wh)"),
    METHOD(lstm_backward, "(dh, gates, cells, da, Wh)"),
    METHOD(gru, "(a, hidden, gates, bh, Wh)"),
    METHOD(gru_backward, "(dh, gates, hidden, da, dr, Wh)"),
    METHOD(sum_by_id, "(dy, ids, dW)"),
    METHOD(gather, "(x, rows, out)"),
    METHOD(swap_ends, "(x, y)"),
    METHOD(convolution, "(x, W, b, y, down, right, top, left)"),
    METHOD(convolution_filters, "(x, dy, dW, db, down)"),
    METHOD(max_pooling, "(x, y, height, width, down, right)"),
    METHOD(max_pooling_backward, "(dy, x, y, dx, height, width, down, right)"),
    METHOD(resample, "(x, rows, columns, y, fill)"),
    {"use_threads", set_threads, METH_O, "use_threads(count)"},
    {"use_vectors", use_vectors, METH_O, "use_vectors(bytes)"},
    {NULL, NULL, 0, NULL},
};

/* The C library of GNU gives memory back to the system when more than twice the largest block that was ever freed lies
   free at the end, and the system clears it when it is asked for anew: a fifth of the time of an LSTM's step. It counts
   blocks of up to 32 MB. A process that has freed one of these keeps up to 64 MB for the next step. */
static void raise_thresholds(void)
{
#ifdef __GLIBC__
    void *volatile block = malloc((32 << 20) - (1 << 16));
    free(block);
#endif
}

/* SOURCES: the digest of the C files, by which native.py knows a module that was compiled from others. PRODUCTS: whether
   this processor has what `product` needs. */
static int execute(PyObject *module)
{
    static int prepared;
    if (!prepared) {
        prepare_for_forks();
        raise_thresholds();
    }
    prepared = 1;
    return PyModule_AddStringConstant(module, "SOURCES", SOURCES) ||
           PyModule_AddIntConstant(module, "PRODUCTS", products(1) != NULL);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Loops of nnbackend.backends.numpy.native.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
