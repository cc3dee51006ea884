/* For x86 with AVX2, FMA and F16C: 16 registers of eight floats. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma,f16c")
#define VARIANT avx2
#define VECTOR 32
#define WIDE 2
#include <immintrin.h>
#define HALF(from) (vector)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i_u *)(from)))
#include "vectors.h"
#include "dense.h"
#include "render.h"
#include "warp.h"
#include "blend.h"
#include "winograd.h"
#include "decoder.h"
#include "generator.h"
#include "recurrent.h"
#include "vae_decoder.h"
#include "motion.h"
#include "image_ops.h"
#include "noise.h"
#include "sizes.h"
#endif
