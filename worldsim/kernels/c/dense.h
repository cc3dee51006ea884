/* Matrix products. Weights lie in panels of 64 outputs, [panels, inputs, 64]: what a tile of rows needs of them
   stays at hand. A row's sums do not depend on the rows beside it. */

enum { PANEL = 64, TILE = 6 };

typedef struct {
    const float *weights, *bias; /* [panels, inputs, PANEL], and [outputs] or nothing */
    int32_t inputs, outputs;
} DenseData;

INLINE int panels_of(int outputs) { return (outputs + PANEL - 1) / PANEL; }

/* total [TILE, PANEL] += rows [TILE] of inputs times a panel. */
INLINE void multiply(const float *const *rows, int inputs, const float *panel, float *total) {
    for (int block = 0; block < PANEL; block += LANES * WIDE) {
        vector sums[TILE][WIDE];
        for (int p = 0; p < TILE; p++)
            for (int j = 0; j < WIDE; j++) sums[p][j] = load(total + p * PANEL + block + LANES * j);
        for (int k = 0; k < inputs; k++) {
            vector weight[WIDE];
            for (int j = 0; j < WIDE; j++) weight[j] = load(panel + (size_t)k * PANEL + block + LANES * j);
            for (int p = 0; p < TILE; p++)
                for (int j = 0; j < WIDE; j++) sums[p][j] += rows[p][k] * weight[j];
        }
        for (int p = 0; p < TILE; p++)
            for (int j = 0; j < WIDE; j++) store(total + p * PANEL + block + LANES * j, sums[p][j]);
    }
}

/* The rows of a tile that begins at ``from``; the last stands in for those that are not there. */
INLINE void tile_of(const float *from, size_t stride, int count, const float **rows) {
    for (int p = 0; p < TILE; p++) rows[p] = from + (p < count ? p : count - 1) * stride;
}

/* A panel of the product for count rows; to [count, to_stride] begins at the panel's first output. */
INLINE void panel_of(const DenseData *dense, int panel, const float *from, size_t stride, int count, float *to,
                     size_t to_stride) {
    int width = dense->outputs - panel * PANEL < PANEL ? dense->outputs - panel * PANEL : PANEL;
    for (int begin = 0; begin < count; begin += TILE) {
        const float *rows[TILE];
        float total[TILE * PANEL] = {0};
        int some = count - begin < TILE ? count - begin : TILE;
        tile_of(from + begin * stride, stride, some, rows);
        if (dense->bias)
            for (int p = 0; p < some; p++) memcpy(total + p * PANEL, dense->bias + panel * PANEL, width * sizeof(float));
        multiply(rows, dense->inputs, dense->weights + (size_t)panel * dense->inputs * PANEL, total);
        for (int p = 0; p < some; p++) memcpy(to + (begin + p) * to_stride, total + p * PANEL, width * sizeof(float));
    }
}

/* from [rows, inputs] to [rows, outputs]. */
void KERNEL(dense)(const DenseData *dense, const float *from, int rows, float *to) {
#pragma omp parallel for schedule(static)
    for (int panel = 0; panel < panels_of(dense->outputs); panel++)
        panel_of(dense, panel, from, dense->inputs, rows, to + panel * PANEL, dense->outputs);
}
