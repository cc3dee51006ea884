/* The frame VAE's decoder for one latent a frame, from that to pixels. See VaeTokenizer.reconstruct in
   tokenizer/vae.py. Blocks and cells have their channels last. */

enum { MAX_CONVOLUTIONS = 8, MAX_PIXELS = 192 };

typedef struct {
    DenseData input;                     /* latents to [blocks, bottleneck] */
    /* each block to its cells [pool * pool, panels, bottleneck, PANEL] */
    const float *unpool;
    const float *position;               /* position bias of cells [cells, width] */
    DenseData convs[MAX_CONVOLUTIONS];  /* see winograd.h; their gains taken in */
    DenseData output;                     /* cells to pixels [3, patch, patch] */
    int32_t depth, width, bottleneck, pool, patch;
    int32_t rows, columns, height, across; /* of blocks, and pixels of a frame */
} VaeData;

/* Blocks [views, rows, columns, bottleneck] to cells, those at ``spot`` of each block, a panel of their
   channels. */
INLINE void unpool_blocks(const VaeData *vae, int views, int spot, int panel, const float *blocks,
                          float *cells) {
    int pool = vae->pool, each = vae->rows * vae->columns, wide = vae->columns * pool,
        panels = panels_of(vae->width);
    int width = vae->width - panel * PANEL < PANEL ? vae->width - panel * PANEL : PANEL;
    size_t whole = (size_t)each * pool * pool;
    DenseData dense = {vae->unpool + ((size_t)spot * panels + panel) * vae->bottleneck * PANEL, NULL,
                       vae->bottleneck, width, 0};
    for (int first = 0; first < views * each; first += GROUP) {
        int count = views * each - first < GROUP ? views * each - first : GROUP;
        float made[GROUP * PANEL];
        panel_of(&dense, 0, blocks + (size_t)first * vae->bottleneck, vae->bottleneck, count, made, PANEL);
        for (int i = 0; i < count; i++) {
            int view = (first + i) / each, block = (first + i) % each;
            int row = block / vae->columns * pool + spot / pool,
                column = block % vae->columns * pool + spot % pool;
            size_t at = ((size_t)row * wide + column) * vae->width + panel * PANEL;
            float *to = cells + view * whole * vae->width + at;
            for (int c = 0; c < width; c += LANES)
                store(to + c, load(made + i * PANEL + c) + load(vae->position + at + c));
        }
    }
}

/* A row of cells [columns, width] to its pixels in frame [3, height, across]; cells are rectified in
   place. */
INLINE void write_pixel_row(const VaeData *vae, int row, float *cells, float *frame) {
    int columns = vae->columns * vae->pool, patch = vae->patch, pixels = vae->output.outputs;
    for (int c = 0; c < columns * vae->width; c += LANES)
        store(cells + c, vmax(load(cells + c), (vector){0}));
    for (int first = 0; first < columns; first += GROUP) {
        int count = columns - first < GROUP ? columns - first : GROUP;
        float made[GROUP * MAX_PIXELS];
        for (int panel = 0; panel < panels_of(pixels); panel++)
            panel_of(&vae->output, panel, cells + (size_t)first * vae->width, vae->width, count,
                     made + panel * PANEL, pixels);
        for (int line = 0; line < 3 * patch; line++) {
            int colour = line / patch, y = row * patch + line % patch;
            if (y >= vae->height) continue;
            for (int i = 0; i < count; i++) {
                int x = (first + i) * patch, some = vae->across - x < patch ? vae->across - x : patch;
                float *to = frame + ((size_t)colour * vae->height + y) * vae->across + x;
                const float *from = made + i * pixels + line * patch;
                if (some == 4) memcpy(to, from, 4 * sizeof(float));
                else for (int j = 0; j < some; j++) to[j] = from[j];
            }
        }
    }
}

/* Floats of workspace that a view takes. */
size_t KERNEL(vae_workspace)(const VaeData *vae) {
    int high = vae->rows * vae->pool, wide = vae->columns * vae->pool;
    size_t tiles = (size_t)tiles_of(high) * tiles_of(wide);
    return vae->input.outputs + (size_t)high * wide * vae->width
           + tiles * SPOTS * (vae->width + (size_t)panels_of(vae->width) * PANEL);
}

/* latent [views, channels] to frames [views, 3, height, across]. */
void KERNEL(vae_decode)(const VaeData *vae, int views, const float *latent, float *frames, float *workspace) {
    int high = vae->rows * vae->pool, wide = vae->columns * vae->pool, width = vae->width,
        panels = panels_of(width);
    int spots_each = vae->pool * vae->pool, entered = vae->input.outputs;
    size_t tiles = (size_t)views * tiles_of(high) * tiles_of(wide), cells = (size_t)high * wide;
    float *blocks = workspace, *hidden = blocks + (size_t)views * entered,
        *spots = hidden + views * cells * width;
    float *sums = spots + tiles * SPOTS * width;
#pragma omp parallel
    {
        product(&vae->input, views, latent, blocks, entered, RELU);
#pragma omp for schedule(static)
        for (int i = 0; i < spots_each * panels; i++)
            unpool_blocks(vae, views, i / panels, i % panels, blocks, hidden);
        for (int i = 0; i < vae->depth; i++)
            convolve(&vae->convs[i], views, high, wide, hidden, 1, 1, hidden, spots, sums);
#pragma omp for schedule(static)
        for (int i = 0; i < views * high; i++)
            write_pixel_row(vae, i % high, hidden + (size_t)i * wide * width,
                      frames + (size_t)(i / high) * 3 * vae->height * vae->across);
    }
}
