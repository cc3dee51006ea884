/* For x86 with AVX-512: 32 registers of sixteen floats. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#define VARIANT avx512
#define VECTOR 64
#define WIDE 4
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
