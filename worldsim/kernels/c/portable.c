/* For any processor. */
#define VARIANT portable
#define VECTOR 16
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
