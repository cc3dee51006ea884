/* Matrix products. Weights lie in panels of 64 outputs, [panels, inputs, 64]: what a tile of rows needs of
   them stays at hand. They are float16 where that loses nothing: half the bytes to fetch, and the same sums.
   A row's sums do not depend on the rows beside it. */

enum { PANEL = 64, TILE = 6, FEW = 4 };
enum { GROUP = 48 }; /* rows that a thread takes at once */
enum { K_BLOCK = 64 }; /* inputs of a panel that are multiplied at once: they stay in the L1 cache */

typedef struct {
    const void *weights; /* [panels, inputs, PANEL] of float, or of float16 if half */
    const float *bias;   /* [outputs] or nothing */
    int32_t inputs, outputs, half;
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

/* total [PANEL] += a row of inputs times a panel that is read once, from memory. */
INLINE void multiply_row(const DenseData *dense, const float *row, size_t panel, float *total) {
    const uint16_t *half = (const uint16_t *)dense->weights + panel;
    const float *whole = (const float *)dense->weights + panel;
    vector sums[PANEL / LANES];
    for (int j = 0; j < PANEL / LANES; j++) sums[j] = load(total + LANES * j);
    for (int k = 0; dense->half && k < dense->inputs; k++, half += PANEL)
        for (int j = 0; j < PANEL / LANES; j++) sums[j] += row[k] * load_half(half + LANES * j);
    for (int k = 0; !dense->half && k < dense->inputs; k++, whole += PANEL)
        for (int j = 0; j < PANEL / LANES; j++) sums[j] += row[k] * load(whole + LANES * j);
    for (int j = 0; j < PANEL / LANES; j++) store(total + LANES * j, sums[j]);
}

/* Inputs of a panel as floats, in scratch [K_BLOCK, PANEL] if they have to be made. */
INLINE const float *widened(const DenseData *dense, size_t first, int inputs, float *scratch) {
    if (!dense->half) return (const float *)dense->weights + first;
    const uint16_t *from = (const uint16_t *)dense->weights + first;
    for (int c = 0; c < inputs * PANEL; c += LANES) store(scratch + c, load_half(from + c));
    return scratch;
}

/* totals [count, PANEL] += rows of inputs, stride apart, times a panel; count <= GROUP. */
INLINE void multiply_group(const DenseData *dense, size_t panel, const float *from, size_t stride, int count,
                           float *totals) {
    size_t size = dense->half ? sizeof(uint16_t) : sizeof(float);
    int tiles = (count + TILE - 1) / TILE;
    for (int first = 0; first < dense->inputs; first += K_BLOCK) {
        float scratch[K_BLOCK * PANEL];
        int inputs = dense->inputs - first < K_BLOCK ? dense->inputs - first : K_BLOCK;
        const float *weights = widened(dense, panel + (size_t)first * PANEL, inputs, scratch);
        const char *next = (const char *)dense->weights + (panel + (size_t)(first + K_BLOCK) * PANEL) * size;
        size_t bytes = first + K_BLOCK < dense->inputs ? K_BLOCK * PANEL * size : 0;
        for (int tile = 0; tile < tiles; tile++) {
            const float *rows[TILE];
            float *total = totals + tile * TILE * PANEL;
            int some = count - tile * TILE < TILE ? count - tile * TILE : TILE;
            for (size_t at = bytes * tile / tiles; at < bytes * (tile + 1) / tiles; at += 64)
                __builtin_prefetch(next + at);
            tile_rows(from + tile * TILE * stride + first, stride, some, rows);
            /* the same sums, and less to do */
            if (some == 1) multiply_rows(1, rows, inputs, weights, total);
            else if (some <= FEW) multiply_rows(FEW, rows, inputs, weights, total);
            else multiply_tile(rows, inputs, weights, total);
        }
    }
}

/* A panel of the product for count rows; to [count, to_stride] begins at the panel's first output. */
static __attribute__((noinline)) void panel_of(const DenseData *dense, int panel, const float *from,
                                               size_t stride, int count, float *to, size_t to_stride) {
    size_t begins = (size_t)panel * dense->inputs * PANEL;
    int width = dense->outputs - panel * PANEL < PANEL ? dense->outputs - panel * PANEL : PANEL;
    for (int begin = 0; begin < count; begin += GROUP) {
        float totals[GROUP * PANEL];
        int some = count - begin < GROUP ? count - begin : GROUP;
        memset(totals, 0, (size_t)(some + TILE - 1) / TILE * TILE * PANEL * sizeof(float));
        for (int p = 0; dense->bias && p < some; p++)
            memcpy(totals + p * PANEL, dense->bias + panel * PANEL, width * sizeof(float));
        if (some == 1) multiply_row(dense, from + begin * stride, begins, totals);
        else multiply_group(dense, begins, from + begin * stride, stride, some, totals);
        for (int p = 0; p < some; p++)
            memcpy(to + (begin + p) * to_stride, totals + p * PANEL, width * sizeof(float));
    }
}

/* from [rows, inputs] to [rows, outputs]. */
void KERNEL(dense)(const DenseData *dense, const float *from, int rows, float *to) {
#pragma omp parallel for schedule(static)
    for (int panel = 0; panel < panels_of(dense->outputs); panel++)
        panel_of(dense, panel, from, dense->inputs, rows, to + panel * PANEL, dense->outputs);
}

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
