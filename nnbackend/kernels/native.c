/* Loops that NumPy has to make in many passes over memory, as the Python module _native.

   Every function takes arrays, then numbers, and answers NotImplemented, with nothing touched, where the arrays are
   not what its loop is written for: aligned and contiguous, float32 or float64 throughout, of one shape (labels:
   int64, one a row, each one of the classes). The interpreter lock is free while a loop runs. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

/* Each loop in the widest registers of the processor that it meets: GCC and glibc choose when the module is loaded. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORS __attribute__((target_clones("avx512f", "avx2", "default"))) static
#else
#define VECTORS static
#endif

#define REAL float
#define NAME(name) name##_float
#define EXP expf
#define LOG logf
#define SQRT sqrtf
#include "loops.h"
#undef REAL
#undef NAME
#undef EXP
#undef LOG
#undef SQRT
#define REAL double
#define NAME(name) name##_double
#define EXP exp
#define LOG log
#define SQRT sqrt
#include "loops.h"

#ifdef __GNUC__
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) (void)(address)
#endif

#define INT64 (sizeof(long) == 8 ? "lq" : "q") /* as the buffer protocol spells it */
enum { MOST_ARRAYS = 4, MOST_NUMBERS = 6 };

typedef void Elementwise(Py_ssize_t, void *const *, const double *);
typedef double Labelled(Py_ssize_t, Py_ssize_t, const void *, const int64_t *, void *);

static PyObject *not_implemented(void)
{
    Py_INCREF(Py_NotImplemented);
    return Py_NotImplemented;
}

static void release(Py_buffer *views, Py_ssize_t count)
{
    while (count-- > 0)
        PyBuffer_Release(&views[count]);
}

/* The memory of one array, if it is contiguous, aligned, and of one of these formats. */
static int borrow(PyObject *array, int write, const char *formats, Py_buffer *view)
{
    if (PyObject_GetBuffer(array, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (write ? PyBUF_WRITABLE : 0))) {
        PyErr_Clear();
        return 0;
    }
    if (view->format && view->format[0] && !view->format[1] && strchr(formats, view->format[0]) &&
        (uintptr_t)view->buf % (uintptr_t)view->itemsize == 0)
        return 1;
    PyBuffer_Release(view);
    return 0;
}

static int same_shape(const Py_buffer *a, const Py_buffer *b)
{
    int same = a->ndim == b->ndim;
    for (int axis = 0; same && axis < a->ndim; axis++)
        same = a->shape[axis] == b->shape[axis];
    return same;
}

static int within(const int64_t *numbers, Py_ssize_t count, Py_ssize_t end)
{
    int inside = 1;
    for (Py_ssize_t i = 0; i < count; i++)
        inside &= numbers[i] >= 0 && numbers[i] < end;
    return inside;
}

/* A loop over arrays of one shape; writes: a bit for each array that it changes. None, or NotImplemented. */
static PyObject *elementwise(
    PyObject *const *args, Py_ssize_t given, int arrays, int writes, int numbers, Elementwise *single, Elementwise *twice)
{
    Py_buffer views[MOST_ARRAYS];
    void *memory[MOST_ARRAYS];
    double values[MOST_NUMBERS];
    if (given != arrays + numbers)
        return PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", arrays + numbers, given);
    for (int i = 0; i < numbers; i++) {
        values[i] = PyFloat_AsDouble(args[arrays + i]);
        if (values[i] == -1 && PyErr_Occurred())
            return NULL;
    }
    for (int i = 0; i < arrays; i++) {
        if (!borrow(args[i], writes >> i & 1, i ? views[0].format : "fd", &views[i])) {
            release(views, i);
            return not_implemented();
        }
        if (!same_shape(&views[i], &views[0])) {
            release(views, i + 1);
            return not_implemented();
        }
        memory[i] = views[i].buf;
    }
    const Py_ssize_t size = views[0].len / views[0].itemsize;
    Elementwise *loop = views[0].format[0] == 'f' ? single : twice;
    Py_BEGIN_ALLOW_THREADS
    loop(size, memory, values);
    Py_END_ALLOW_THREADS
    release(views, arrays);
    Py_RETURN_NONE;
}

/* A loop over rows, (n, classes), and their labels, (n,), which may write an array like the rows. A float, or
   NotImplemented. */
static PyObject *labelled(PyObject *const *args, Py_ssize_t given, int arrays, Labelled *single, Labelled *twice)
{
    Py_buffer views[3];
    double result = 0;
    if (given != arrays)
        return PyErr_Format(PyExc_TypeError, "expected %d arguments, got %zd", arrays, given);
    if (!borrow(args[0], 0, "fd", &views[0]))
        return not_implemented();
    if (!borrow(args[1], 0, INT64, &views[1])) {
        release(views, 1);
        return not_implemented();
    }
    if (arrays == 3 && !borrow(args[2], 1, views[0].format, &views[2])) {
        release(views, 2);
        return not_implemented();
    }
    int suited = views[0].ndim == 2 && views[1].ndim == 1 && views[1].shape[0] == views[0].shape[0] &&
                 views[0].len > 0 && (arrays < 3 || same_shape(&views[2], &views[0]));
    if (suited) {
        const Py_ssize_t n = views[0].shape[0], classes = views[0].shape[1];
        Labelled *loop = views[0].format[0] == 'f' ? single : twice;
        Py_BEGIN_ALLOW_THREADS
        suited = within(views[1].buf, n, classes);
        if (suited)
            result = loop(n, classes, views[0].buf, views[1].buf, arrays == 3 ? views[2].buf : NULL);
        Py_END_ALLOW_THREADS
    }
    release(views, arrays);
    return suited ? PyFloat_FromDouble(result) : not_implemented();
}

/* y, (n, columns), and b, (columns,), of which one is written. None, or NotImplemented. */
static PyObject *matrix_and_row(
    PyObject *const *args, Py_ssize_t given, int write, void (*single)(Py_ssize_t, Py_ssize_t, float *, float *),
    void (*twice)(Py_ssize_t, Py_ssize_t, double *, double *))
{
    Py_buffer views[2];
    if (given != 2)
        return PyErr_Format(PyExc_TypeError, "expected 2 arguments, got %zd", given);
    for (int i = 0; i < 2; i++)
        if (!borrow(args[i], i == write, i ? views[0].format : "fd", &views[i])) {
            release(views, i);
            return not_implemented();
        }
    const int suited = views[0].ndim == 2 && views[1].ndim == 1 && views[1].shape[0] == views[0].shape[1];
    if (suited) {
        const Py_ssize_t n = views[0].shape[0], columns = views[0].shape[1];
        const int is_float = views[0].format[0] == 'f';
        Py_BEGIN_ALLOW_THREADS
        if (is_float)
            single(n, columns, views[0].buf, views[1].buf);
        else
            twice(n, columns, views[0].buf, views[1].buf);
        Py_END_ALLOW_THREADS
    }
    release(views, 2);
    if (!suited)
        return not_implemented();
    Py_RETURN_NONE;
}

static PyObject *add_bias(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    return matrix_and_row(args, given, 0, add_bias_float, add_bias_double);
}

static PyObject *sum_rows(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    (void)module;
    return matrix_and_row(args, given, 1, sum_rows_float, sum_rows_double);
}

/* Row after row, the next one on its way from memory while this one is copied. Each comes from another place, where no
   processor looks for it by itself. */
static void copy_rows(char *out, const char *x, const int64_t *rows, Py_ssize_t count, Py_ssize_t bytes)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        for (Py_ssize_t next = 0; i + 1 < count && next < bytes; next += 64)
            PREFETCH(x + rows[i + 1] * bytes + next);
        memcpy(out + i * bytes, x + rows[i] * bytes, (size_t)bytes);
    }
}

/* out <- x[rows]. x: (n, ...), of numbers; rows: (k,), int64, in [0, n); out: (k, ...). None, or NotImplemented. */
static PyObject *gather(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer x, rows, out;
    (void)module;
    if (given != 3)
        return PyErr_Format(PyExc_TypeError, "expected 3 arguments, got %zd", given);
    if (!borrow(args[0], 0, "fdlq", &x))
        return not_implemented();
    if (!borrow(args[1], 0, INT64, &rows)) {
        PyBuffer_Release(&x);
        return not_implemented();
    }
    if (!borrow(args[2], 1, x.format, &out)) {
        PyBuffer_Release(&rows);
        PyBuffer_Release(&x);
        return not_implemented();
    }
    int suited = x.ndim > 0 && rows.ndim == 1 && out.ndim == x.ndim && x.len > 0 && out.shape[0] == rows.shape[0] &&
                 !memcmp(out.shape + 1, x.shape + 1, (size_t)(x.ndim - 1) * sizeof *x.shape);
    if (suited) {
        const Py_ssize_t n = x.shape[0], count = rows.shape[0];
        Py_BEGIN_ALLOW_THREADS
        suited = within(rows.buf, count, n);
        if (suited)
            copy_rows(out.buf, x.buf, rows.buf, count, x.len / n);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&out);
    PyBuffer_Release(&rows);
    PyBuffer_Release(&x);
    if (!suited)
        return not_implemented();
    Py_RETURN_NONE;
}

/* Is every element finite? A bool, or NotImplemented. */
static PyObject *is_finite(PyObject *module, PyObject *const *args, Py_ssize_t given)
{
    Py_buffer x;
    int finite;
    (void)module;
    if (given != 1)
        return PyErr_Format(PyExc_TypeError, "expected 1 argument, got %zd", given);
    if (!borrow(args[0], 0, "fd", &x))
        return not_implemented();
    const Py_ssize_t size = x.len / x.itemsize;
    const int single = x.format[0] == 'f';
    Py_BEGIN_ALLOW_THREADS
    finite = single ? is_finite_float(size, x.buf) : is_finite_double(size, x.buf);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&x);
    return PyBool_FromLong(finite);
}

#define ELEMENTWISE(name, arrays, writes, numbers)                                                      \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)                    \
    {                                                                                                   \
        (void)module;                                                                                   \
        return elementwise(args, given, arrays, writes, numbers, name##_float, name##_double);          \
    }
#define LABELLED(name, arrays)                                                                          \
    static PyObject *name(PyObject *module, PyObject *const *args, Py_ssize_t given)                    \
    {                                                                                                   \
        (void)module;                                                                                   \
        return labelled(args, given, arrays, name##_float, name##_double);                              \
    }
#define METHOD(name, signature) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, #name signature}

ELEMENTWISE(sgd, 2, 1, 2)
ELEMENTWISE(momentum, 3, 1 | 4, 3)
ELEMENTWISE(nesterov, 3, 1 | 4, 3)
ELEMENTWISE(rmsprop, 3, 1 | 4, 5)
ELEMENTWISE(adam, 4, 1 | 4 | 8, 6)
ELEMENTWISE(dropout_mask, 1, 1, 6)
ELEMENTWISE(relu, 2, 2, 0)
ELEMENTWISE(relu_backward, 3, 4, 0)
LABELLED(softmax_cross_entropy, 3)
LABELLED(softmax_cross_entropy_backward, 3)

static PyMethodDef methods[] = {
    METHOD(sgd, "(p, g, lr, decay)"),
    METHOD(momentum, "(p, g, v, lr, momentum, decay)"),
    METHOD(nesterov, "(p, g, v, lr, momentum, decay)"),
    METHOD(rmsprop, "(p, g, h, lr, alpha, share, eps, decay)"),
    METHOD(adam, "(p, g, m, v, lr, eps, beta1, beta2, decay, keep)"),
    METHOD(dropout_mask, "(mask, limit, scale, clock, stream, key0, key1)"),
    METHOD(add_bias, "(y, b)"),
    METHOD(sum_rows, "(dy, db)"),
    METHOD(relu, "(x, y)"),
    METHOD(relu_backward, "(dy, y, dx)"),
    METHOD(softmax_cross_entropy, "(x, t, y)"),
    METHOD(softmax_cross_entropy_backward, "(y, t, dx)"),
    METHOD(gather, "(x, rows, out)"),
    METHOD(is_finite, "(x)"),
    {NULL, NULL, 0, NULL},
};

/* What native.py expects of this file: both change together. */
static int add_revision(PyObject *module)
{
    return PyModule_AddIntConstant(module, "REVISION", 1);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)add_revision},
#ifdef Py_GIL_DISABLED
    {Py_mod_gil, Py_MOD_GIL_NOT_USED},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Loops of nnbackend.kernels.native.", 0, methods, slots, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
