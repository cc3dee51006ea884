/* Matrix products. Weights lie in panels of 64 outputs, [panels, inputs, 64]: what a tile of rows needs of
   them stays at hand. A row's sums do not depend on the rows beside it. */

enum { PANEL = 64, TILE = 6, FEW = 4 };

typedef struct {
    const float *weights, *bias; /* [panels, inputs, PANEL], and [outputs] or nothing */
    int32_t inputs, outputs;
} DenseData;

INLINE int panels_of(int outputs) { return (outputs + PANEL - 1) / PANEL; }

/* total [count, PANEL] += rows [count] of inputs times a panel; count <= TILE is a constant where it is
   called. */
INLINE void multiply_rows(int count, const float *const *rows, int inputs, const float *panel, float *total) {
    for (int block = 0; block < PANEL; block += LANES * WIDE) {
        vector sums[TILE][WIDE];
        for (int p = 0; p < count; p++)
            for (int j = 0; j < WIDE; j++) sums[p][j] = load(total + p * PANEL + block + LANES * j);
        for (int k = 0; k < inputs; k++) {
            vector weight[WIDE];
            for (int j = 0; j < WIDE; j++) weight[j] = load(panel + (size_t)k * PANEL + block + LANES * j);
            for (int p = 0; p < count; p++)
                for (int j = 0; j < WIDE; j++) sums[p][j] += rows[p][k] * weight[j];
        }
        for (int p = 0; p < count; p++)
            for (int j = 0; j < WIDE; j++) store(total + p * PANEL + block + LANES * j, sums[p][j]);
    }
}

INLINE void multiply_tile(const float *const *rows, int inputs, const float *panel, float *total) {
    multiply_rows(TILE, rows, inputs, panel, total);
}

/* The rows of a tile that begins at ``from``; the last stands in for those that are not there. */
INLINE void tile_rows(const float *from, size_t stride, int count, const float **rows) {
    for (int p = 0; p < TILE; p++) rows[p] = from + (p < count ? p : count - 1) * stride;
}

/* A panel of the product for count rows; to [count, to_stride] begins at the panel's first output. */
static __attribute__((noinline)) void panel_of(const DenseData *dense, int panel, const float *from,
                                               size_t stride, int count, float *to, size_t to_stride) {
    const float *weights = dense->weights + (size_t)panel * dense->inputs * PANEL;
    int width = dense->outputs - panel * PANEL < PANEL ? dense->outputs - panel * PANEL : PANEL;
    for (int begin = 0; begin < count; begin += TILE) {
        const float *rows[TILE];
        float total[TILE * PANEL] = {0};
        int some = count - begin < TILE ? count - begin : TILE;
        tile_rows(from + begin * stride, stride, some, rows);
        if (dense->bias)
            for (int p = 0; p < some; p++)
                memcpy(total + p * PANEL, dense->bias + panel * PANEL, width * sizeof(float));
        /* the same sums, and less to do */
        if (some == 1) multiply_rows(1, rows, dense->inputs, weights, total);
        else if (some <= FEW) multiply_rows(FEW, rows, dense->inputs, weights, total);
        else multiply_tile(rows, dense->inputs, weights, total);
        for (int p = 0; p < some; p++)
            memcpy(to + (begin + p) * to_stride, total + p * PANEL, width * sizeof(float));
    }
}

/* from [rows, inputs] to [rows, outputs]. */
void KERNEL(dense)(const DenseData *dense, const float *from, int rows, float *to) {
#pragma omp parallel for schedule(static)
    for (int panel = 0; panel < panels_of(dense->outputs); panel++)
        panel_of(dense, panel, from, dense->inputs, rows, to + panel * PANEL, dense->outputs);
}

enum { GROUP = 48 }; /* rows that a thread takes at once */
enum { PLAIN, SILU, RELU, ADD };

/* Called by all threads of a team: rows [rows, inputs] times the weights; to [rows, stride] as they are,
   through a SiLU or a ReLU, or added to what is there. */
INLINE void product(const DenseData *dense, int rows, const float *from, float *to, size_t stride, int how) {
    int groups = (rows + GROUP - 1) / GROUP;
#pragma omp for schedule(static)
    for (int i = 0; i < panels_of(dense->outputs) * groups; i++) {
        int panel = i / groups, first = i % groups * GROUP,
            count = rows - first < GROUP ? rows - first : GROUP;
        int width = dense->outputs - panel * PANEL < PANEL ? dense->outputs - panel * PANEL : PANEL;
        float *at = to + first * stride + panel * PANEL, made[GROUP * PANEL];
        const float *begin = from + (size_t)first * dense->inputs;
        if (how != ADD) panel_of(dense, panel, begin, dense->inputs, count, at, stride);
        else panel_of(dense, panel, begin, dense->inputs, count, made, PANEL);
        for (int row = 0; row < count && how == SILU; row++)
            for (int c = 0; c < width; c += LANES) {
                vector value = load(at + row * stride + c);
                store(at + row * stride + c, value * sigmoid(value));
            }
        for (int row = 0; row < count && how == RELU; row++)
            for (int c = 0; c < width; c++) at[row * stride + c] = maxf(at[row * stride + c], 0);
        for (int row = 0; row < count && how == ADD; row++)
            for (int c = 0; c < width; c++) at[row * stride + c] += made[row * PANEL + c];
    }
}
