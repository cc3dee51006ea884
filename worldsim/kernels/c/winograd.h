/* 3x3 convolutions of cells with their channels last, by Winograd's F(4x4, 3x3) (Lavin and Gray, 1509.09308):
   a tile of 4x4 outputs takes 36 products for each pair of channels instead of 144. Weights are those of a
   matrix product for each of the 36, [SPOTS, panels, inputs, PANEL]; inputs are a multiple of 16. */

enum { SPOTS = 36, OUT = 4, IN = 6 };

/* Tiles that cover so many cells; the last may stand over. */
INLINE int tiles_of(int cells) { return (cells + OUT - 1) / OUT; }

INLINE void winograd_in_1d(const vector *d, size_t step, vector *t, size_t to) {
    vector far = d[4 * step] - 4 * d[2 * step], near = d[3 * step] - 4 * d[step];
    vector wide = d[4 * step] - d[2 * step], slim = 2 * (d[3 * step] - d[step]);
    t[0] = 4 * d[0] - 5 * d[2 * step] + d[4 * step];
    t[to] = far + near, t[2 * to] = far - near;
    t[3 * to] = wide + slim, t[4 * to] = wide - slim;
    t[5 * to] = 4 * d[step] - 5 * d[3 * step] + d[5 * step];
}

INLINE void winograd_out_1d(const vector *m, size_t step, vector *y, size_t to) {
    vector even = m[step] + m[2 * step], odd = m[step] - m[2 * step];
    vector more = m[3 * step] + m[4 * step], less = m[3 * step] - m[4 * step];
    y[0] = m[0] + even + more;
    y[to] = odd + 2 * less;
    y[2 * to] = even + 4 * more;
    y[3 * to] = odd + 8 * less + m[5 * step];
}

/* One tile of cells [high, wide, inputs] to its place in spots [SPOTS, tiles, inputs]; beyond the edge are
   zeros. What is below zero counts as that if it rectifies. */
INLINE void transform_input_tile(const float *cells, int high, int wide, int inputs, int rectifies, int tile,
                                 float *spots, size_t tiles) {
    int top = tile / tiles_of(wide) * OUT - 1, left = tile % tiles_of(wide) * OUT - 1;
    for (int c = 0; c < inputs; c += LANES) {
        vector d[IN * IN], half[IN * IN], whole[IN * IN];
        for (int y = 0; y < IN; y++)
            for (int x = 0; x < IN; x++) {
                int row = top + y, column = left + x,
                    inside = row >= 0 && row < high && column >= 0 && column < wide;
                d[y * IN + x] = inside ? load(cells + ((size_t)row * wide + column) * inputs + c)
                    : (vector){0};
                if (rectifies) d[y * IN + x] = vmax(d[y * IN + x], (vector){0});
            }
        for (int x = 0; x < IN; x++) winograd_in_1d(d + x, IN, half + x, IN);
        for (int y = 0; y < IN; y++) winograd_in_1d(half + y * IN, 1, whole + y * IN, 1);
        for (int s = 0; s < SPOTS; s++) store(spots + s * tiles * inputs + c, whole[s]);
    }
}

/* The other way: sums [SPOTS, tiles, panels * PANEL] to cells [high, wide, outputs], added to what is there
   if asked. */
INLINE void transform_output_tile(const DenseData *conv, const float *sums, size_t tiles, int high, int wide,
                                  int tile, int adds, float *cells) {
    int top = tile / tiles_of(wide) * OUT, left = tile % tiles_of(wide) * OUT, outputs = conv->outputs;
    size_t stride = (size_t)panels_of(outputs) * PANEL;
    for (int c = 0; c < outputs; c += LANES) {
        int width = outputs - c < LANES ? outputs - c : LANES;
        vector m[IN * IN], half[OUT * IN], whole[OUT * OUT];
        float bias[LANES] = {0};
        memcpy(bias, conv->bias + c, width * sizeof(float));
        for (int s = 0; s < SPOTS; s++) m[s] = load(sums + s * tiles * stride + c);
        for (int x = 0; x < IN; x++) winograd_out_1d(m + x, IN, half + x, IN);
        for (int y = 0; y < OUT; y++) winograd_out_1d(half + y * IN, 1, whole + y * OUT, 1);
        for (int i = 0; i < OUT * OUT; i++) {
            if (top + i / OUT >= high || left + i % OUT >= wide) continue;
            float *to = cells + ((size_t)(top + i / OUT) * wide + left + i % OUT) * outputs + c, told[LANES];
            vector value = whole[i] + load(bias);
            if (width == LANES) {
                if (adds) value += load(to);
                store(to, value);
                continue;
            }
            store(told, value);
            for (int j = 0; j < width; j++) to[j] = adds ? to[j] + told[j] : told[j];
        }
    }
}

/* Called by all threads of a team: cells [views, high, wide, inputs] to [views, high, wide, outputs], which
   may be the same. spots and sums are workspace for views x tiles x SPOTS x inputs, and x panels * PANEL. */
INLINE void convolve(const DenseData *conv, int views, int high, int wide, const float *cells, int rectifies,
                     int adds, float *to, float *spots, float *sums) {
    int each = tiles_of(high) * tiles_of(wide), panels = panels_of(conv->outputs);
    size_t tiles = (size_t)views * each, inputs = conv->inputs, stride = (size_t)panels * PANEL;
    size_t area = (size_t)high * wide;
#pragma omp for schedule(static)
    for (int i = 0; i < views * each; i++)
        transform_input_tile(cells + i / each * area * inputs, high, wide, inputs, rectifies, i % each,
                             spots + i * inputs, tiles);
#pragma omp for schedule(static)
    for (int i = 0; i < SPOTS * panels; i++) {
        DenseData dense = {(const float *)conv->weights + i * inputs * PANEL, NULL, inputs, PANEL, 0};
        panel_of(&dense, 0, spots + i / panels * tiles * inputs, inputs, tiles,
                 sums + i / panels * tiles * stride + i % panels * PANEL, stride);
    }
#pragma omp for schedule(static)
    for (int i = 0; i < views * each; i++)
        transform_output_tile(conv, sums + i * stride, tiles, high, wide, i % each, adds,
                              to + i / each * area * conv->outputs);
}
