/* For any processor. */
#define VARIANT portable
#define VECTOR 16
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
