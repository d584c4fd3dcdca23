/* Spiking neurons on a CPU, in one pass forward and one backward; `native.py` compiles and calls this.

   Currents and spikes are T times n values of type REAL. A call does the neurons `first` to `last`, in blocks that stay
   in the cache while they go through all steps. Potentials are measured from the reset potential. What a neuron is
   comes from the compiler's command line: IF, LIF or PLIF, DECAY, SOFT, DETACH, and SURROGATE, one of those below. */

#include <math.h>
#include <stdint.h>

#define BLOCK 1024
#define ATAN 0
#define SIGMOID 1
#define TRIANGLE 2
#define RECTANGLE 3

typedef struct {
    double tau, rate, threshold, start, drop, alpha;
    int64_t steps, is_static, n;
} Layer;

static inline REAL charged(REAL v, REAL x, REAL tau, REAL rate) {
#if defined(IF)
    return v + x;
#elif defined(PLIF)
    return DECAY ? v + (x - v) * rate : v - v * rate + x;
#elif defined(LIF)
    return DECAY ? v + (x - v) / tau : v - v / tau + x;
#endif
}

static inline REAL left(REAL h, REAL threshold, REAL drop) {
    return h >= threshold ? (SOFT ? h - drop : 0) : h;
}

/* e to the power of y <= 0, to 1e-7. Unlike the library's it is compiled to vector instructions. */
static inline float exponential(float y) {
    y = y < -80 ? -80 : y;
    float k = rintf(y * 1.44269504f);
    float r = (y - k * 0.693359375f) + k * 2.12194440e-4f;
    float series = 1 / 120.f + r * (1 / 720.f);
    series = 1 / 6.f + r * (1 / 24.f + r * series);
    series = 1 + r * (1 + r * (0.5f + r * series));
    union { int32_t bits; float value; } power = {((int32_t)k + 127) * (1 << 23)};
    return series * power.value;
}

/* The surrogate's derivative at u = H - threshold: that of `loop.surrogate_derivative`. */
static inline REAL slope(REAL u, REAL a) {
    REAL size = u < 0 ? -u : u;
#if SURROGATE == ATAN
    return 1 / (2 / a + u * u * ((REAL)4.934802200544679 * a)); /* pi^2 / 2 */
#elif SURROGATE == SIGMOID
    REAL z = sizeof(REAL) == sizeof(double) ? (REAL)exp(-a * size) : (REAL)exponential(-a * size);
    return a * z / ((1 + z) * (1 + z));
#elif SURROGATE == TRIANGLE
    REAL height = a - a * a * size;
    return height > 0 ? height : 0;
#elif SURROGATE == RECTANGLE
    return size < a / 2 ? 1 / a : 0;
#endif
}

void forward(const Layer *layer, const REAL *x, REAL *spikes, int64_t first, int64_t last) {
    const REAL tau = layer->tau, rate = layer->rate, threshold = layer->threshold, drop = layer->drop;
    for (int64_t start = first; start < last; start += BLOCK) {
        const int size = last - start < BLOCK ? last - start : BLOCK;
        REAL v[BLOCK];
        for (int i = 0; i < size; i++) v[i] = layer->start;
        for (int64_t t = 0; t < layer->steps; t++) {
            const REAL *current = x + start + (layer->is_static ? 0 : t * layer->n);
            REAL *spike = spikes + start + t * layer->n;
            for (int i = 0; i < size; i++) {
                const REAL h = charged(v[i], current[i], tau, rate);
                spike[i] = h >= threshold;
                v[i] = left(h, threshold, drop);
            }
        }
    }
}

/* `charges` has room for T blocks. Returns dL/drate of these neurons, 0 but for PLIF. */
double backward(const Layer *layer, const REAL *x, const REAL *grad_spikes, REAL *grad_x, REAL *charges,
                int64_t first, int64_t last) {
    const REAL tau = layer->tau, rate = layer->rate, threshold = layer->threshold, drop = layer->drop;
    double total = 0;
    for (int64_t start = first; start < last; start += BLOCK) {
        const int size = last - start < BLOCK ? last - start : BLOCK;
        REAL v[BLOCK], grad[BLOCK], learning[BLOCK];
        for (int i = 0; i < size; i++) v[i] = layer->start, grad[i] = learning[i] = 0;
        for (int64_t t = 0; t < layer->steps; t++) {
            const REAL *current = x + start + (layer->is_static ? 0 : t * layer->n);
            REAL *h = charges + t * BLOCK;
            for (int i = 0; i < size; i++) {
                h[i] = charged(v[i], current[i], tau, rate);
                v[i] = left(h[i], threshold, drop);
            }
        }
        for (int64_t t = layer->steps - 1; t >= 0; t--) {
            const int64_t at = start + (layer->is_static ? 0 : t * layer->n);
            const int begins = !layer->is_static || t == layer->steps - 1;
            const REAL *incoming = grad_spikes + start + t * layer->n, *h = charges + t * BLOCK;
            for (int i = 0; i < size; i++) {
                const REAL s = slope(h[i] - threshold, layer->alpha);
                REAL kept = !SOFT && h[i] >= threshold ? 0 : 1;
                if (!DETACH) kept -= (SOFT ? drop : h[i]) * s;
#if defined(IF)
                grad[i] = incoming[i] * s + grad[i] * kept;
                const REAL out = grad[i];
#else
                grad[i] = incoming[i] * s + (1 - rate) * (grad[i] * kept);
                const REAL out = DECAY ? grad[i] * rate : grad[i];
#endif
#if defined(PLIF)
                const REAL before = t ? left(h[i - BLOCK], threshold, drop) : (REAL)layer->start;
                learning[i] += grad[i] * (DECAY ? x[at + i] - before : -before);
#endif
                grad_x[at + i] = begins ? out : grad_x[at + i] + out;
            }
        }
        for (int i = 0; i < size; i++) total += learning[i];
    }
    return total;
}
