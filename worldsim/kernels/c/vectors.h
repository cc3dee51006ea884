/* What all kernels count with: a register of floats at a time, and functions that a compiler can vectorise.

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

INLINE float sum(vector value) {
    float parts[LANES];
    store(parts, value);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}

typedef int32_t integers __attribute__((vector_size(VECTOR)));

INLINE vector all(float value) { return value - (vector){0}; }
INLINE vector chosen(integers mask, vector a, vector b) { return (vector)((mask & (integers)a) | (~mask & (integers)b)); }
INLINE vector greater(vector a, vector b) { return chosen(a > b, a, b); }
INLINE vector lesser(vector a, vector b) { return chosen(a < b, a, b); }

INLINE float least(float a, float b) { return a < b ? a : b; }
INLINE float most(float a, float b) { return a > b ? a : b; }

/* In [low, high]; what is no number becomes low, so that no index leaves its plane. */
INLINE float within(float x, float low, float high) { return x > low ? (x < high ? x : high) : low; }

INLINE float mixed(float a, float b, float share) { return a + share * (b - a); }

/* The nearest whole numbers to numbers below 2^22: adding this leaves no place for anything behind the point. */
#define WHOLE 12582912.0f
INLINE vector whole(vector x) { return (x + WHOLE) - WHOLE; }
INLINE integers counted(vector x) { return (integers)(x + WHOLE) - 0x4b400000; }

/* sin(pi t) and cos(pi t), to 1e-7: series on half a turn. */
INLINE void waves(vector t, vector *sine, vector *cosine) {
    vector x = (t - whole(t)) * 3.14159265358979f, x2 = x * x;
    integers odd = counted(t) << 31; /* every other half turn has the other sign */
    vector s = 1.0f / 362880 - x2 / 39916800, c = 1.0f / 40320 + x2 * (x2 / 479001600 - 1.0f / 3628800);
    s = x * (1 + x2 * (-1.0f / 6 + x2 * (1.0f / 120 + x2 * (-1.0f / 5040 + x2 * s))));
    c = 1 + x2 * (-0.5f + x2 * (1.0f / 24 + x2 * (-1.0f / 720 + x2 * c)));
    *sine = (vector)((integers)s ^ odd);
    *cosine = (vector)((integers)c ^ odd);
}

/* log x for x > 0, to 1e-7: the exponent, and a series in (m - 1) / (m + 1) for the rest. */
INLINE vector logarithm(vector x) {
    integers exponent = ((integers)x - 0x3f3504f3) >> 23; /* m in [sqrt 1/2, sqrt 2) */
    vector m = (vector)((integers)x - (exponent << 23)), s = (m - 1) / (m + 1), s2 = s * s;
    vector series = 1 + s2 * (1.0f / 3 + s2 * (1.0f / 5 + s2 * (1.0f / 7 + s2 * (1.0f / 9))));
    return __builtin_convertvector(exponent, vector) * 0.69314718056f + 2 * s * series;
}

/* exp x, to 1e-7; what is beyond +-80 counts as that. */
INLINE vector exponential(vector x) {
    x = lesser(greater(x, all(-80)), all(80));
    vector n = whole(x * 1.44269504f), r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vector p = 1.0f / 24 + r * (1.0f / 120 + r * (1.0f / 720 + r * (1.0f / 5040)));
    p = 1 + r * (1 + r * (0.5f + r * (1.0f / 6 + r * p)));
    return p * (vector)((counted(n) + 127) << 23);
}

INLINE vector sigmoid(vector x) { return 1 / (1 + exponential(-x)); }

/* Where x in [-1, 1] lies between the cells of an axis: the one before, the one after, and how far on.
   Bilinear, without aligned corners, what is outside as at the border: torch's grid_sample. */
typedef struct {
    int before, after;
    float share;
} Spot;

INLINE Spot placed(float x, int cells) {
    float at = within(((x + 1) * cells - 1) * 0.5f, 0, cells - 1);
    int before = (int)at;
    return (Spot){before, before + 1 < cells ? before + 1 : before, at - before};
}

/* Of a picture whose lines begin at ``above`` and ``below``, ``share`` on from the first to the second. */
INLINE float between(const float *picture, size_t above, size_t below, Spot across, float share) {
    float first = mixed(picture[above + across.before], picture[above + across.after], across.share);
    float second = mixed(picture[below + across.before], picture[below + across.after], across.share);
    return mixed(first, second, share);
}

INLINE float read1(const float *plane, int rows, int columns, float x, float y) {
    Spot across = placed(x, columns), along = placed(y, rows);
    return between(plane, (size_t)along.before * columns, (size_t)along.after * columns, across, along.share);
}

/* Sixteen channels, which lie together, to where they are wanted. */
INLINE void read16(const float *plane, int rows, int columns, float x, float y, float *to) {
    Spot a = placed(x, columns), d = placed(y, rows);
    const float *top = plane + (size_t)d.before * columns * 16, *bottom = plane + (size_t)d.after * columns * 16;
    for (int c = 0; c < 16; c += LANES) {
        vector nw = load(top + a.before * 16 + c), ne = load(top + a.after * 16 + c);
        vector sw = load(bottom + a.before * 16 + c), se = load(bottom + a.after * 16 + c);
        vector above = nw + a.share * (ne - nw), below = sw + a.share * (se - sw);
        store(to + c, above + d.share * (below - above));
    }
}
