/* For x86 with AVX2 and FMA: 16 registers of eight floats. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#define VECTOR 32
#define WIDE 2
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
