/* Arithmetic of all kernels on a register of floats, as functions that a compiler can vectorise.

   Each variant (portable.c, avx2.c, avx512.c) includes the kernels once, under names of its own. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define JOINED(name, variant) name##_##variant
#define NAMED(name, variant) JOINED(name, variant)
#define KERNEL(name) NAMED(worldsim_##name, VARIANT)

/* As many floats as a register holds. */
enum { LANES = VECTOR / 4 };
typedef float vector __attribute__((vector_size(VECTOR), aligned(4), may_alias));

INLINE vector load(const float *from) { return *(const vector *)from; }
INLINE void store(float *to, vector value) { *(vector *)to = value; }

/* LANES numbers of float16 as floats, exactly. */
#ifdef HALF
INLINE vector load_half(const uint16_t *from) { return HALF(from); }
#else
INLINE vector load_half(const uint16_t *from) {
    vector value;
    for (int i = 0; i < LANES; i++) {
        union { uint32_t bits; float number; } part = {(uint32_t)(from[i] & 0x7fff) << 13};
        part.number *= 0x1p112f; /* the other exponent's bias; exact, also where the first bit is missing */
        part.bits |= (uint32_t)(from[i] & 0x8000) << 16;
        value[i] = part.number;
    }
    return value;
}
#endif

INLINE float hsum(vector value) {
    float parts[LANES];
    store(parts, value);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

typedef int32_t ivector __attribute__((vector_size(VECTOR)));
typedef uint32_t uvector __attribute__((vector_size(VECTOR)));

INLINE vector splat(float value) { return value - (vector){0}; }
INLINE vector vselect(ivector mask, vector a, vector b) {
    return (vector)((mask & (ivector)a) | (~mask & (ivector)b));
}
INLINE vector vmax(vector a, vector b) { return vselect(a > b, a, b); }
INLINE vector vmin(vector a, vector b) { return vselect(a < b, a, b); }

INLINE float minf(float a, float b) { return a < b ? a : b; }
INLINE float maxf(float a, float b) { return a > b ? a : b; }

/* x clamped to [low, high]; NaN becomes low, so that no index leaves its plane. */
INLINE float clamp(float x, float low, float high) { return x > low ? (x < high ? x : high) : low; }

INLINE float lerp(float a, float b, float share) { return a + share * (b - a); }

/* Adding this rounds numbers below 2^22 to whole ones: no bits are left behind the point. */
#define ROUNDING 12582912.0f
INLINE vector vround(vector x) { return (x + ROUNDING) - ROUNDING; }
/* In unsigned numbers, which wrap: what is far out of range, or NaN, becomes some whole number. */
INLINE ivector to_int(vector x) { return (ivector)((uvector)(x + ROUNDING) - 0x4b400000u); }

/* sin(pi t) and cos(pi t), to 1e-7: series on half a turn. */
INLINE void sincospi_v(vector t, vector *sine, vector *cosine) {
    vector x = (t - vround(t)) * 3.14159265358979f, x2 = x * x;
    ivector odd = (ivector)((uvector)to_int(t) << 31); /* every other half turn has the other sign */
    vector s = 1.0f / 362880 - x2 / 39916800, c = 1.0f / 40320 + x2 * (x2 / 479001600 - 1.0f / 3628800);
    s = x * (1 + x2 * (-1.0f / 6 + x2 * (1.0f / 120 + x2 * (-1.0f / 5040 + x2 * s))));
    c = 1 + x2 * (-0.5f + x2 * (1.0f / 24 + x2 * (-1.0f / 720 + x2 * c)));
    *sine = (vector)((ivector)s ^ odd);
    *cosine = (vector)((ivector)c ^ odd);
}

/* log x for x > 0, to 1e-7: the exponent, and a series in (m - 1) / (m + 1) for the rest. */
INLINE vector vlog(vector x) {
    ivector exponent = ((ivector)x - 0x3f3504f3) >> 23; /* m in [sqrt 1/2, sqrt 2) */
    vector m = (vector)((ivector)x - (exponent << 23)), s = (m - 1) / (m + 1), s2 = s * s;
    vector series = 1 + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9))));
    return __builtin_convertvector(exponent, vector) * 0.69314718056f + 2 * s * series;
}

/* exp x, to 1e-7; x is clamped to +-80. */
INLINE vector vexp(vector x) {
    x = vmin(vmax(x, splat(-80)), splat(80));
    vector n = vround(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vector p = 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)));
    p = 1 + r * (1 + r * (0.5f + r * (1.0f / 6 + r * p)));
    return p * (vector)(((uvector)to_int(n) + 127u) << 23);
}

INLINE vector sigmoid(vector x) { return 1 / (1 + vexp(-x)); }

/* Linear tap of x in [-1, 1] on an axis of cells: the cell before, the cell after, and the share of the
   second. Bilinear, without aligned corners, what is outside as at the border: torch's grid_sample. */
typedef struct {
    int before, after;
    float share;
} Tap;

INLINE Tap axis_tap(float x, int cells) {
    float at = clamp(((x + 1) * cells - 1) * 0.5f, 0, cells - 1);
    int before = (int)at;
    return (Tap){before, before + 1 < cells ? before + 1 : before, at - before};
}

/* Of a picture whose lines begin at ``above`` and ``below``, ``share`` on from the first to the second. */
INLINE float bilinear(const float *picture, size_t above, size_t below, Tap across, float share) {
    float first = lerp(picture[above + across.before], picture[above + across.after], across.share);
    float second = lerp(picture[below + across.before], picture[below + across.after], across.share);
    return lerp(first, second, share);
}

INLINE float sample1(const float *plane, int rows, int columns, float x, float y) {
    Tap across = axis_tap(x, columns), along = axis_tap(y, rows);
    return bilinear(plane, (size_t)along.before * columns, (size_t)along.after * columns, across,
                    along.share);
}

/* As sample1, of sixteen channels that lie together. */
INLINE void sample16(const float *plane, int rows, int columns, float x, float y, float *to) {
    Tap a = axis_tap(x, columns), d = axis_tap(y, rows);
    const float *top = plane + (size_t)d.before * columns * 16,
        *bottom = plane + (size_t)d.after * columns * 16;
    for (int c = 0; c < 16; c += LANES) {
        vector nw = load(top + a.before * 16 + c), ne = load(top + a.after * 16 + c);
        vector sw = load(bottom + a.before * 16 + c), se = load(bottom + a.after * 16 + c);
        vector above = nw + a.share * (ne - nw), below = sw + a.share * (se - sw);
        store(to + c, above + d.share * (below - above));
    }
}
