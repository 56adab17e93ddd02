// The kernels of kernels.py. T is float or double: the line "typedef ... T;" is put before this text.
//
// The same text compiles for a CPU, with loops in place of the grid. In a KERNEL, thread i writes element (or row) i
// and shares nothing with other threads; the first argument is the number of threads that work. A GRID kernel covers a
// matrix, (n, columns), with blocks of 32 columns and 8 rows of threads. In a BLOCK kernel, and in a GRID kernel that
// says so, the threads of a block work together.

#define KERNEL(name) extern "C" __global__ void nn_##name
#define GRID(name) extern "C" __global__ void nn_##name
// A block of 1024 threads is launched only if its kernel is content with so many registers.
#define BLOCK(name) extern "C" __global__ void __launch_bounds__(1024) nn_##name
#define THREAD(i, n)                                                      \
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; \
    if (i >= n) return

// --- activations -----------------------------------------------------------------------------------------------

__device__ inline T logistic(T x) {
    const T e = exp(-fabs(x));  // the argument is never positive, so nothing overflows
    return (x >= 0 ? (T)1 : e) / (1 + e);
}

// From there on a function and its derivative are what they are at infinity, which times 0 would be no number.
#define GELU_END 20
#define SILU_END 20000
__device__ inline T within(T x, T end) { return x < -end ? -end : x > end ? end : x; }  // a NaN stays one

__device__ inline T gelu_tanh(T x) { return tanh((T)0.7978845608028654 * (x + (T)0.044715 * x * x * x)); }

#define FUNCTION(name, result)                                      \
    KERNEL(name)(long long n, T* out, const T* in, double number) { \
        THREAD(i, n);                                               \
        const T x = in[i], alpha = (T)number;                       \
        (void)alpha;                                                \
        out[i] = result;                                            \
    }

// y is what the forward remembered: its output, or its input if the reference names it x
#define BACKWARD(name, result)                                                         \
    KERNEL(name)(long long n, T* out, const T* gradient, const T* in, double number) { \
        THREAD(i, n);                                                                  \
        const T dy = gradient[i], y = in[i], alpha = (T)number;                        \
        (void)alpha;                                                                   \
        out[i] = result;                                                               \
    }

FUNCTION(sigmoid, logistic(x))
BACKWARD(sigmoid_backward, dy * y * (1 - y))
FUNCTION(relu, x < 0 ? (T)0 : x)  // written so that NaN stays NaN
BACKWARD(relu_backward, y > 0 ? dy : (T)0)
FUNCTION(leaky_relu, x > 0 ? x : alpha == 0 && x == x ? (T)0 : alpha * x)
BACKWARD(leaky_relu_backward, y > 0 ? dy : alpha * dy)
FUNCTION(tanh, tanh(x))
BACKWARD(tanh_backward, dy * (1 - y * y))
FUNCTION(elu, x > 0 ? x : alpha * expm1(x))
BACKWARD(elu_backward, y > 0 ? dy : dy * (y + alpha))
FUNCTION(silu, (x < -SILU_END ? (T)-SILU_END : x) * logistic(x))
BACKWARD(silu_backward, dy * logistic(y) * (1 + within(y, SILU_END) * (1 - logistic(y))))
FUNCTION(gelu, (T)0.5 * (x < -GELU_END ? (T)-GELU_END : x) * (1 + gelu_tanh(within(x, GELU_END))))

KERNEL(gelu_backward)(long long n, T* out, const T* dy, const T* in, double) {
    THREAD(i, n);
    const T x = within(in[i], GELU_END), u = gelu_tanh(x);
    const T slope = (T)0.7978845608028654 * (1 + 3 * (T)0.044715 * x * x);
    out[i] = dy[i] * ((T)0.5 * (1 + u) + (T)0.5 * x * (1 - u * u) * slope);
}

GRID(add_bias)(long long n, T* y, const T* b, long long columns) {
    const long long j = blockIdx.x * 32 + threadIdx.x;
    if (j >= columns) return;
    const T bias = b[j];
    for (long long i = blockIdx.y * 8 + threadIdx.y; i < n; i += gridDim.y * 8) y[i * columns + j] += bias;
}

// Row blockIdx.y of out is the sum of the `rows` rows of x from blockIdx.y * rows on. Threads work together.
GRID(column_sum)(long long n, T* out, const T* x, long long columns, long long rows) {
    __shared__ T part[8][33];
    const long long j = blockIdx.x * 32 + threadIdx.x, end = min((blockIdx.y + 1) * rows, n);
    T sum = 0;
    if (j < columns)
        for (long long i = blockIdx.y * rows + threadIdx.y; i < end; i += 8) sum += x[i * columns + j];
    part[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || j >= columns) return;
    for (int k = 1; k < 8; k++) sum += part[k][threadIdx.x];
    out[blockIdx.y * columns + j] = sum;
}

// --- rows: one thread walks along a row, which is fast for few columns ----------------------------------------------

__device__ inline T largest(const T* row, long long columns) {
    T m = row[0];
    for (long long j = 1; j < columns; j++)
        if (row[j] > m) m = row[j];
    return m;
}

KERNEL(softmax)(long long n, T* out, const T* in, long long columns) {
    THREAD(i, n);
    const T* x = in + i * columns;
    T* y = out + i * columns;
    const T m = largest(x, columns);
    T total = 0;
    for (long long j = 0; j < columns; j++) total += y[j] = exp(x[j] - m);
    for (long long j = 0; j < columns; j++) y[j] /= total;
}

KERNEL(softmax_backward)(long long n, T* out, const T* gradient, const T* in, long long columns) {
    THREAD(i, n);
    const T *dy = gradient + i * columns, *y = in + i * columns;
    T total = 0;
    for (long long j = 0; j < columns; j++) total += dy[j] * y[j];
    for (long long j = 0; j < columns; j++) out[i * columns + j] = y[j] * (dy[j] - total);
}

// --- recurrent networks: thread i has element i of the state, (rows, h); `at` is its place in the first of 4 parts ----

#define ELEMENT(i, n, parts) \
    THREAD(i, n);            \
    const long long at = i / h * (parts) * h + i % h

KERNEL(lstm_gates)(long long n, T* gates, T* c_next, T* hidden, long long h, const T* a, const T* r, const T* c) {
    ELEMENT(i, n, 4);
    const T f = logistic(a[at] + r[at]), g = tanh(a[at + h] + r[at + h]);
    const T in = logistic(a[at + 2 * h] + r[at + 2 * h]), out = logistic(a[at + 3 * h] + r[at + 3 * h]);
    const T next = f * c[i] + in * g;
    gates[at] = f;
    gates[at + h] = g;
    gates[at + 2 * h] = in;
    gates[at + 3 * h] = out;
    c_next[i] = next;
    hidden[i] = out * tanh(next);
}

KERNEL(lstm_gates_backward)(long long n, T* da, T* dc_before, long long h, const T* dh, const T* dc, const T* gates,
                            const T* c, const T* c_next) {
    ELEMENT(i, n, 4);
    const T f = gates[at], g = gates[at + h], in = gates[at + 2 * h], out = gates[at + 3 * h];
    const T squashed = tanh(c_next[i]), change = dc[i] + dh[i] * out * (1 - squashed * squashed);
    da[at] = change * c[i] * f * (1 - f);
    da[at + h] = change * in * (1 - g * g);
    da[at + 2 * h] = change * g * in * (1 - in);
    da[at + 3 * h] = dh[i] * squashed * out * (1 - out);
    dc_before[i] = change * f;
}

KERNEL(gru_gates)(long long n, T* gates, T* after, long long h, const T* a, const T* r, const T* bh, const T* before) {
    ELEMENT(i, n, 3);
    const long long to = i / h * 4 * h + i % h;
    const T reset = logistic(a[at] + r[at]), z = logistic(a[at + h] + r[at + h]);
    const T u = r[at + 2 * h] + bh[i % h], fresh = tanh(a[at + 2 * h] + reset * u);
    gates[to] = reset;
    gates[to + h] = z;
    gates[to + 2 * h] = fresh;
    gates[to + 3 * h] = u;
    after[i] = fresh + z * (before[i] - fresh);
}

KERNEL(gru_gates_backward)(long long n, T* da, T* dr, T* past, long long h, const T* dh, const T* gates,
                           const T* before) {
    ELEMENT(i, n, 3);
    const long long from = i / h * 4 * h + i % h;
    const T reset = gates[from], z = gates[from + h], fresh = gates[from + 2 * h], u = gates[from + 3 * h];
    const T dn = dh[i] * (1 - z) * (1 - fresh * fresh);
    da[at] = dr[at] = dn * u * reset * (1 - reset);
    da[at + h] = dr[at + h] = dh[i] * (before[i] - fresh) * z * (1 - z);
    da[at + 2 * h] = dn;
    dr[at + 2 * h] = dn * reset;
    past[i] = dh[i] * z;
}

// --- ids --------------------------------------------------------------------------------------------------------

GRID(embedding)(long long n, T* out, const T* in, const long long* ids, long long columns, long long vocabulary) {
    const long long j = blockIdx.x * 32 + threadIdx.x;
    if (j >= columns) return;
    for (long long i = blockIdx.y * 8 + threadIdx.y; i < n; i += gridDim.y * 8) {
        const long long id = ids[i];
        out[i * columns + j] = id >= 0 && id < vocabulary ? in[id * columns + j] : (T)nan("");
    }
}

// chain[i] is the next place of the same id, or n; of a place that is not the first of its id, the complement of that.
KERNEL(chain)(long long n, long long* chain, const long long* ids) {
    THREAD(i, n);
    long long next = i + 1, before = 0;
    while (next < n && ids[next] != ids[i]) next++;
    while (ids[before] != ids[i]) before++;
    chain[i] = before == i ? next : ~next;
}

// The sum of the rows of each chain, in their order, is added to the row of its id.
GRID(sum_chains)(long long n, T* out, const T* in, const long long* ids, const long long* chain, long long columns,
                 long long vocabulary) {
    const long long j = blockIdx.x * 32 + threadIdx.x;
    if (j >= columns) return;
    for (long long i = blockIdx.y * 8 + threadIdx.y; i < n; i += gridDim.y * 8) {
        if (chain[i] < 0 || ids[i] < 0 || ids[i] >= vocabulary) continue;
        T sum = 0;
        for (long long k = i; k < n; k = chain[k] < 0 ? ~chain[k] : chain[k]) sum += in[k * columns + j];
        out[ids[i] * columns + j] += sum;
    }
}

// The target arguments of a loss: labels or rows of probabilities (the other is null); absent settings are null, too.
#define TARGETS \
    const long long *labels, const T *targets, const T *weight, const T *class_weight, double label_smoothing

__device__ inline T target(long long i, long long j, long long columns, TARGETS) {
    T q = labels ? (T)(labels[i] == j) : targets[i * columns + j];
    if (labels && (labels[i] < 0 || labels[i] >= columns)) q = (T)nan("");  // no class: the loss must not look sound
    if (label_smoothing != 0) q = (T)(1 - label_smoothing) * q + (T)(label_smoothing / columns);
    return class_weight ? class_weight[j] * q : q;
}

// Writes the loss of every row and, unless `out` is null, the softmax.
KERNEL(softmax_cross_entropy)(long long n, T* loss, T* out, const T* in, long long columns, TARGETS) {
    THREAD(i, n);
    const T* x = in + i * columns;
    const T m = largest(x, columns);
    T total = 0, sum = 0;
    for (long long j = 0; j < columns; j++) total += exp(x[j] - m);
    const T log_total = log(total);
    for (long long j = 0; j < columns; j++) {
        const T q = target(i, j, columns, labels, targets, weight, class_weight, label_smoothing);
        sum += q * (log_total - (x[j] - m));
        if (out) out[i * columns + j] = exp(x[j] - m) / total;
    }
    loss[i] = weight ? weight[i] * sum : sum;
}

// The mean divides by `rows`, or by *divisor if that pointer is not null (the gradient is 0 if *divisor is 0).
KERNEL(softmax_cross_entropy_backward)(
    long long n, T* out, const T* in, long long columns, TARGETS, double rows, const T* divisor) {
    THREAD(i, n);
    const T* y = in + i * columns;
    const T share = divisor ? *divisor : (T)rows;
    T sum = 1;
    if (class_weight) {
        sum = 0;
        for (long long j = 0; j < columns; j++)
            sum += target(i, j, columns, labels, targets, weight, class_weight, label_smoothing);
    }
    for (long long j = 0; j < columns; j++) {
        const T q = target(i, j, columns, labels, targets, weight, class_weight, label_smoothing);
        const T dx = y[j] * sum - q;
        out[i * columns + j] = share == 0 ? (T)0 : (weight ? dx * weight[i] : dx) / share;
    }
}

__device__ inline long long argmax(const T* y, long long columns) {
    long long best = 0;
    for (long long j = 1; j < columns && y[best] == y[best]; j++)  // as in argmax, NaN is the largest
        if (y[j] > y[best] || y[j] != y[j]) best = j;
    return best;
}

KERNEL(is_correct)(long long n, long long* out, const T* in, long long columns, const long long* t) {
    THREAD(i, n);
    out[i] = argmax(in + i * columns, columns) == t[i];
}

// --- random bits ------------------------------------------------------------------------------------------------

struct Words {
    unsigned int w[4];
};

// Philox4x32-10: see functions/philox.py
__device__ inline Words philox(Words c, unsigned int k0, unsigned int k1) {
    for (int i = 0; i < 10; i++) {
        const unsigned int high0 = __umulhi(0xD2511F53u, c.w[0]), low0 = 0xD2511F53u * c.w[0];
        const unsigned int high1 = __umulhi(0xCD9E8D57u, c.w[2]), low1 = 0xCD9E8D57u * c.w[2];
        c = {{high1 ^ c.w[1] ^ k0, low1, high0 ^ c.w[3] ^ k1, low0}};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

// Thread i draws the four words of block i. bound: 24 bits. seed, stream: unsigned, 64 and 32 bits.
KERNEL(dropout_mask)(long long n, T* out, long long size, long long bound, double scale,
                                        long long seed, long long stream, const long long* clock) {
    THREAD(i, n);
    const Words counter = {{(unsigned int)i, (unsigned int)*clock, (unsigned int)stream, 0u}};
    const Words bits = philox(counter, (unsigned int)seed, (unsigned int)((unsigned long long)seed >> 32));
    for (int j = 0; j < 4 && 4 * i + j < size; j++)
        out[4 * i + j] = (bits.w[j] >> 8) >= bound ? (T)scale : (T)0;
}

// The same, with numbers that are even on [0, 1).
KERNEL(uniform)(long long n, T* out, long long size, long long seed, long long stream, const long long* clock) {
    THREAD(i, n);
    const Words counter = {{(unsigned int)i, (unsigned int)*clock, (unsigned int)stream, 0u}};
    const Words bits = philox(counter, (unsigned int)seed, (unsigned int)((unsigned long long)seed >> 32));
    for (int j = 0; j < 4 && 4 * i + j < size; j++) out[4 * i + j] = (T)(bits.w[j] >> 8) * (T)5.9604644775390625e-8;
}

// --- images, (n, h, w, c) --------------------------------------------------------------------------------------------

__device__ inline T seen(const T* image, T i, T j, long long h, long long w, long long c, T fill) {
    return i >= 0 && i < (T)h && j >= 0 && j < (T)w ? image[((long long)i * w + (long long)j) * c] : fill;
}

// Thread i writes one element of y, (n', points, c). rows, columns: (n', points)
KERNEL(resample)(long long n, T* y, const T* x, const T* rows, const T* columns, long long points, long long h,
                 long long w, long long c, double fill) {
    THREAD(i, n);
    const long long at = i / c;
    const T* image = x + at / points * (h * w * c) + i % c;
    const T top = floor(rows[at]), left = floor(columns[at]), below = rows[at] - top, right = columns[at] - left;
    y[i] = (1 - below) * (1 - right) * seen(image, top, left, h, w, c, (T)fill) +
           (1 - below) * right * seen(image, top, left + 1, h, w, c, (T)fill) +
           below * (1 - right) * seen(image, top + 1, left, h, w, c, (T)fill) +
           below * right * seen(image, top + 1, left + 1, h, w, c, (T)fill);
}

__device__ inline T hat(T away) { return away < 0 ? max(1 + away, (T)0) : max(1 - away, (T)0); }

// Thread i writes one element of dx, (n', h, w, c). dy: (n', points, c)
KERNEL(resample_backward)(long long n, T* dx, const T* dy, const T* rows, const T* columns, long long points,
                          long long h, long long w, long long c) {
    THREAD(i, n);
    const long long channel = i % c, image = i / c / w / h;
    const T column = (T)(i / c % w), row = (T)(i / c / w % h);
    T sum = 0;
    for (long long at = image * points; at < (image + 1) * points; at++) {
        const T weight = hat(rows[at] - row) * hat(columns[at] - column);
        if (weight != 0) sum += weight * dy[at * c + channel];
    }
    dx[i] = sum;
}

// The weights of the four points of the grid next to a pixel, of which `first` is the first.
__device__ inline void splines(T* weights, long long* first, long long pixel, double spacing) {
    const T at = (T)pixel / (T)spacing, rest = at - floor(at);
    T squares = 0;
    *first = (long long)floor(at);
    for (int k = 0; k < 4; k++) {
        const T away = fabs(rest + 1 - (T)k), near = max(1 - away, (T)0), far = max(2 - away, (T)0);
        weights[k] = (far * far * far - 4 * near * near * near) / 6;
        squares += weights[k] * weights[k];
    }
    for (int k = 0; k < 4; k++) weights[k] /= sqrt(squares);
}

// Thread i places one pixel. draws: (below, 2, n', beside); rows, columns: (n', h, w)
KERNEL(elastic_positions)(long long n, T* rows, T* columns, const T* draws, long long images, long long beside,
                          long long h, long long w, double scale, double spacing) {
    THREAD(i, n);
    const long long image = i / w / h, row = i / w % h, column = i % w;
    T down[4], right[4], move[2] = {0, 0};
    long long first, left;
    splines(down, &first, row, spacing);
    splines(right, &left, column, spacing);
    for (int axis = 0; axis < 2; axis++)
        for (int k = 0; k < 4; k++)
            for (int m = 0; m < 4; m++)
                move[axis] += down[k] * right[m] *
                              (draws[(((first + k) * 2 + axis) * images + image) * beside + left + m] - (T)0.5);
    rows[i] = (T)row + (T)scale * move[0];
    columns[i] = (T)column + (T)scale * move[1];
}

// --- optimizers: in place, over flat buffers ------------------------------------------------------------------------

// A number, and a pointer to its value on the device, which is null if the number is on the host.
#define NUMBER(name) double name, const double* device_##name
#define COUNT(name) double name, const long long* device_##name
#define VALUE(name) (T)(device_##name ? *device_##name : name)

__device__ inline T penalised(T p, T g, double weight_decay) {
    return weight_decay != 0 ? g + (T)weight_decay * p : g;
}

KERNEL(sgd_step)(long long n, T* p, const T* gradient, NUMBER(lr), double weight_decay) {
    THREAD(i, n);
    p[i] -= VALUE(lr) * penalised(p[i], gradient[i], weight_decay);
}

KERNEL(average_step)(long long n, T* average, const T* p, double decay) {
    THREAD(i, n);
    average[i] = (T)decay * average[i] + (T)(1 - decay) * p[i];
}

KERNEL(momentum_step)(
    long long n, T* p, const T* gradient, T* v, NUMBER(lr), double momentum, double weight_decay) {
    THREAD(i, n);
    v[i] = (T)momentum * v[i] + penalised(p[i], gradient[i], weight_decay);
    p[i] -= VALUE(lr) * v[i];
}

KERNEL(nesterov_step)(
    long long n, T* p, const T* gradient, T* v, NUMBER(lr), double momentum, double weight_decay) {
    THREAD(i, n);
    const T g = penalised(p[i], gradient[i], weight_decay);
    v[i] = (T)momentum * v[i] + g;
    p[i] -= VALUE(lr) * (g + (T)momentum * v[i]);
}

KERNEL(adagrad_step)(long long n, T* p, const T* gradient, T* h, NUMBER(lr), double eps, double weight_decay) {
    THREAD(i, n);
    const T g = penalised(p[i], gradient[i], weight_decay);
    h[i] += g * g;
    p[i] -= VALUE(lr) * g / (sqrt(h[i]) + (T)eps);
}

KERNEL(rmsprop_step)(
    long long n, T* p, const T* gradient, T* h, NUMBER(lr), double alpha, double eps, double weight_decay) {
    THREAD(i, n);
    const T g = penalised(p[i], gradient[i], weight_decay);
    h[i] = (T)alpha * h[i] + (T)(1 - alpha) * (g * g);
    p[i] -= VALUE(lr) * g / (sqrt(h[i]) + (T)eps);
}

// 1 - beta^t is written -expm1(t log beta): no digits cancel, so float is enough, and pow is not needed.
#define ADAM(g)                                               \
    m[i] = (T)beta1 * m[i] + (T)(1 - beta1) * (g);            \
    v[i] = (T)beta2 * v[i] + (T)(1 - beta2) * ((g) * (g));    \
    const T m_hat = m[i] / -expm1((T)(VALUE(t) * log_beta1)); \
    const T v_hat = v[i] / -expm1((T)(VALUE(t) * log_beta2)); \
    p[i] -= VALUE(lr) * m_hat / (sqrt(v_hat) + (T)eps)
#define ADAM_ARGUMENTS                                                                                   \
    long long n, T *p, const T *gradient, T *m, T *v, COUNT(t), NUMBER(lr), double beta1, double beta2, \
        double log_beta1, double log_beta2, double eps, double weight_decay

KERNEL(adam_step)(ADAM_ARGUMENTS) {
    THREAD(i, n);
    const T g = penalised(p[i], gradient[i], weight_decay);
    ADAM(g);
}

KERNEL(adamw_step)(ADAM_ARGUMENTS) {
    THREAD(i, n);
    p[i] *= 1 - VALUE(lr) * (T)weight_decay;
    const T g = gradient[i];
    ADAM(g);
}

// Sums over the threads of a block: every thread passes its term and gets the sum. The order is fixed.
template <class V>
__device__ inline V block_sum(V term, V* shared) {
    const unsigned thread = threadIdx.x;
    shared[thread] = term;
    for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {  // blockDim.x is a power of two
        __syncthreads();
        if (thread < half) shared[thread] += shared[thread + half];
    }
    __syncthreads();
    return shared[0];
}

// Block k writes the sum of the squares of its part of x.
BLOCK(square_sums)(long long n, double* out, const T* x) {
    __shared__ double shared[256];
    double sum = 0;
    for (long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x; i < n; i += gridDim.x * (long long)blockDim.x)
        sum += (double)x[i] * x[i];
    sum = block_sum(sum, shared);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

// Scales g down to the norm `limit` if its norm is larger. squares: `parts` (at most 256) terms of its squared norm.
BLOCK(clip)(long long n, T* g, const double* squares, long long parts, double limit) {
    __shared__ double shared[256];
    const double norm = sqrt(block_sum(threadIdx.x < parts ? squares[threadIdx.x] : 0.0, shared));
    const double factor = limit / (norm + 1e-6);
    const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (i < n && !(factor >= 1)) g[i] *= (T)factor;
}

// --- begin and end of a step: `at` is its number; if counters is not null, the first counter is used instead -------

#define AT long long at, long long* counters

// Copies rows of up to three arrays in 32-bit words. For each: the new rows, the old rows, the width of a row.
GRID(take_rows)(long long n, const long long* order, long long length, AT, long long stride, long long start,
                unsigned* to0, const unsigned* from0, long long width0, unsigned* to1, const unsigned* from1,
                long long width1, unsigned* to2, const unsigned* from2, long long width2) {
    const long long i = blockIdx.y * 8 + threadIdx.y, first = (counters ? counters[0] : at) * stride + start;
    long long j = blockIdx.x * 32 + threadIdx.x;
    if (i >= n || first + i >= length) return;
    const long long row = order[first + i];
    if (j < width0) {
        to0[i * width0 + j] = from0[row * width0 + j];
    } else if ((j -= width0) < width1) {
        to1[i * width1 + j] = from1[row * width1 + j];
    } else if ((j -= width1) < width2) {
        to2[i * width2 + j] = from2[row * width2 + j];
    }
}

// Writes metrics, (rows, steps), and advances the counters. One thread calls it.
__device__ inline void enter(T* metrics, long long steps, AT, long long count, T loss, T correct, bool both) {
    const long long column = counters ? counters[0] : at;
    metrics[column] = loss;
    if (both) metrics[steps + column] = correct;
    for (long long k = 0; k < count; k++) counters[k]++;
}

KERNEL(record)(
    long long n, T* metrics, long long steps, AT, long long count, const T* loss, const long long* correct) {
    THREAD(i, n);
    enter(metrics, steps, at, counters, count, *loss, correct ? (T)*correct : 0, correct != 0);
}

// Returns the loss of row i, and writes its gradient, divided by `share`, to `out`.
__device__ inline T loss_and_gradient(long long i, T* out, const T* in, long long columns, TARGETS, T share) {
    const T* x = in + i * columns;
    const T m = largest(x, columns);
    T total = 0, loss = 0, sum = 1;
    for (long long j = 0; j < columns; j++) total += exp(x[j] - m);
    if (class_weight) {
        sum = 0;
        for (long long j = 0; j < columns; j++)
            sum += target(i, j, columns, labels, targets, weight, class_weight, label_smoothing);
    }
    const T log_total = log(total);
    for (long long j = 0; j < columns; j++) {
        const T q = target(i, j, columns, labels, targets, weight, class_weight, label_smoothing);
        loss += q * (log_total - (x[j] - m));
        out[i * columns + j] = (exp(x[j] - m) / total * sum - q) / share;
    }
    return loss;
}

__device__ inline bool right(
    long long i, const T* in, long long columns, const long long* labels, const T* targets) {
    const long long t = labels ? labels[i] : argmax(targets + i * columns, columns);
    return argmax(in + i * columns, columns) == t;
}

// For few rows: one block, with one thread per row.
BLOCK(softmax_cross_entropy_recorded)(long long n, T* out, const T* in, long long columns, TARGETS, double share,
                                      T* metrics, long long steps, AT, long long count) {
    __shared__ T losses[1024];
    __shared__ int rights[1024];
    const long long i = threadIdx.x;
    T loss = 0;
    int correct = 0;
    if (i < n) {
        loss = loss_and_gradient(
            i, out, in, columns, labels, targets, weight, class_weight, label_smoothing, (T)share);
        correct = right(i, in, columns, labels, targets);
    }
    loss = block_sum(loss, losses);
    correct = block_sum(correct, rights);
    if (i == 0) enter(metrics, steps, at, counters, count, loss / (T)share, (T)correct, true);
}

// For many rows: first each row alone, then (record_mean) the sums.
KERNEL(softmax_cross_entropy_apart)(
    long long n, T* out, T* loss, int* correct, const T* in, long long columns, TARGETS, double share) {
    THREAD(i, n);
    loss[i] = loss_and_gradient(
        i, out, in, columns, labels, targets, weight, class_weight, label_smoothing, (T)share);
    correct[i] = right(i, in, columns, labels, targets);
}

BLOCK(record_mean)(long long n, T* metrics, long long steps, AT, long long count, const T* loss, const int* correct,
                   double share) {
    __shared__ T losses[1024];
    __shared__ int rights[1024];
    T sum = 0;
    int hits = 0;
    for (long long i = threadIdx.x; i < n; i += blockDim.x) {
        sum += loss[i];
        hits += correct[i];
    }
    sum = block_sum(sum, losses);
    hits = block_sum(hits, rights);
    if (threadIdx.x == 0) enter(metrics, steps, at, counters, count, sum / (T)share, (T)hits, true);
}
