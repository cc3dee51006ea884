/* For x86 with AVX-512: 32 registers of sixteen floats. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#define VARIANT avx512
#define VECTOR 64
#define WIDE 4
#include <immintrin.h>
#define HALF(from) (vector)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i_u *)(from)))
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
