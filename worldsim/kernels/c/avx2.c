/* For x86 with AVX2 and FMA: 16 registers of eight floats. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx2,fma")
#define VARIANT avx2
#define VECTOR 32
#define WIDE 2
#include "vectors.h"
#include "dense.h"
#include "look.h"
#include "recall.h"
#include "compose.h"
#include "convolve.h"
#include "decode.h"
#include "generate.h"
#include "recurrent.h"
#include "vae.h"
#include "move.h"
#include "frames.h"
#include "noise.h"
#include "sizes.h"
#endif
