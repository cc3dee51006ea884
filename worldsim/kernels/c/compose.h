/* The new frame from what the decoder says: how the past is moved, how far it is trusted, what is painted.
   See HistoryTokenizer.decode in tokenizer/history.py. */

/* Weights of four neighbours for what lies ``share`` beyond the second (Keys, a = -3/4). */
INLINE void cubic(float share, float *weights) {
    const float a = -0.75f;
    for (int i = 0; i < 4; i++) {
        float x = fabsf(share + 1 - i);
        weights[i] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
}

INLINE int kept(int at, int cells) { return at < 0 ? 0 : at < cells ? at : cells - 1; }

typedef float rgb __attribute__((vector_size(16), aligned(4), may_alias));

/* A pixel of ``picture`` [rows, columns, 4] at x, y in [-1, 1]. */
INLINE rgb read_cubic(const float *picture, int rows, int columns, float x, float y) {
    float column = within(((x + 1) * columns - 1) * 0.5f, -4, columns + 4);
    float row = within(((y + 1) * rows - 1) * 0.5f, -4, rows + 4);
    float left = floorf(column), top = floorf(row), across[4], along[4];
    cubic(column - left, across);
    cubic(row - top, along);
    rgb total = {0};
    for (int i = 0; i < 4; i++) {
        const float *line = picture + (size_t)kept((int)top - 1 + i, rows) * columns * 4;
        rgb found = {0};
        for (int j = 0; j < 4; j++) found += across[j] * *(const rgb *)(line + 4 * kept((int)left - 1 + j, columns));
        total += along[i] * found;
    }
    return total;
}

/* Between a coarse picture's cells, ``times`` of which make one pixel of it: torch's bilinear upsampling. */
INLINE Spot coarse(int at, int times, int cells) {
    float source = most((at + 0.5f) / times - 0.5f, 0);
    int before = kept((int)source, cells);
    return (Spot){before, kept(before + 1, cells), source - before};
}

INLINE void compose_along(const CameraData *camera, int row, const float *out, const float *latent, const float *prior,
                          const float *valid, const float *grid, const float *past, float *frame) {
    int rows = camera->rows, columns = camera->columns, patch = camera->patch, block = patch * camera->pool;
    int wide = columns / patch, high = rows / patch;
    int area = patch * patch, told = 2 + 4 * area, coded = 3 * block * block;
    size_t plane = (size_t)rows * columns;
    Spot along = coarse(row, patch, high);
    const float *above = out + (size_t)along.before * wide * told, *below = out + (size_t)along.after * wide * told;
    float trusts[columns + LANES];
    for (int x = 0; x < columns; x++)
        trusts[x] = out[((size_t)(row / patch) * wide + x / patch) * told + 2 + row % patch * patch + x % patch]
                    + 2 * valid[x] - 1;
    for (int x = columns; x < columns + LANES; x++) trusts[x] = 0;
    for (int x = 0; x < columns; x += LANES) store(trusts + x, sigmoid(load(trusts + x)));
    for (int x = 0; x < columns; x++) {
        const float *here = out + ((size_t)(row / patch) * wide + x / patch) * told + 2 + row % patch * patch + x % patch;
        const float *sent = latent + ((size_t)(row / block) * (columns / block) + x / block) * coded
                            + row % block * block + x % block;
        Spot across = coarse(x, patch, wide);
        float move[2];
        for (int i = 0; i < 2; i++)
            move[i] = 0.1f * mixed(mixed(above[across.before * told + i], above[across.after * told + i], across.share),
                                   mixed(below[across.before * told + i], below[across.after * told + i], across.share),
                                   along.share);
        rgb moved = read_cubic(past, rows, columns, grid[2 * x] + move[0], grid[2 * x + 1] + move[1]);
        for (int c = 0; c < 3; c++) {
            float paint = here[(c + 1) * area] + sent[c * block * block];
            frame[c * plane + x] = within(mixed(prior[c * plane + x], moved[c], trusts[x]) + paint, -1, 1);
        }
    }
}

/* All views. out [views, cells, 2 + 4 patch^2]; latent, what the code alone paints [views, tokens, 3 block^2]; prior, past and frame [views, 3, rows, columns]; valid and grid as
   recall gives them. room is for the past with its channels last [views, rows, columns, 4]. */
void KERNEL(compose)(const CameraData *camera, int views, const float *out, const float *latent, const float *prior,
                     const float *valid, const float *grid, const float *past, float *frame, float *room) {
    int rows = camera->rows, columns = camera->columns, patch = camera->patch, block = patch * camera->pool;
    size_t plane = (size_t)rows * columns, told = plane / (patch * patch) * (2 + 4 * patch * patch);
    size_t sent = plane / (block * block) * (3 * block * block);
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            const float *from = past + 3 * (i / rows) * plane + (size_t)(i % rows) * columns;
            float *to = room + 4 * (size_t)i * columns;
            for (int x = 0; x < columns; x++)
                to[4 * x] = from[x], to[4 * x + 1] = from[plane + x], to[4 * x + 2] = from[2 * plane + x], to[4 * x + 3] = 0;
        }
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            int view = i / rows, row = i % rows;
            size_t line = (size_t)row * columns;
            compose_along(camera, row, out + view * told, latent + view * sent, prior + 3 * view * plane + line,
                          valid + view * plane + line, grid + 2 * (view * plane + line), room + 4 * view * plane,
                          frame + 3 * view * plane + line);
        }
    }
}
