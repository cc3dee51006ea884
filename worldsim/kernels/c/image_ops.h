/* Frames to grey levels, and statistics of a warp. See pixels.py and sampling/uncertainty.py. */

/* All frames: from [count, 3, rows, columns] in [-1, 1] to grey levels [count, rows, columns, 3]. */
void KERNEL(to_uint8)(const float *from, int count, int rows, int columns, uint8_t *to) {
    size_t plane = (size_t)rows * columns;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < count * rows; i++) {
        const float *line = from + 3 * (i / rows) * plane + (size_t)(i % rows) * columns;
        uint8_t *shown = to + (size_t)3 * i * columns, levels[3][columns];
        for (int c = 0; c < 3; c++)
            for (int x = 0; x < columns; x++)
                levels[c][x] = (uint8_t)(int)rintf((clamp(line[c * plane + x], -1, 1) + 1) * 127.5f);
        for (int x = 0; x < columns; x++)
            for (int c = 0; c < 3; c++) shown[3 * x + c] = levels[c][x];
    }
}

INLINE void grey_row(const float *line, size_t plane, int columns, float *grey) {
    for (int x = 0; x < columns; x++) grey[x] = (line[x] + line[plane + x] + line[2 * plane + x]) / 3;
}

/* Sum of a line; beyond its end are zeros up to a whole register. */
INLINE float sum_row(const float *line, int columns) {
    vector total = {0};
    for (int x = 0; x < columns; x += LANES) total += load(line + x);
    return hsum(total);
}

/* All frames: frame and warped [count, 3, rows, columns], valid [count, rows, columns]; means [count, 3]: of
   the warp error times confidence, of the confidence, and of the length of the brightness gradient. workspace
   holds three floats per row. */
void KERNEL(warp_statistics)(const float *frame, const float *warped, const float *valid, int count, int rows,
                             int columns, float *means, float *workspace) {
    size_t plane = (size_t)rows * columns;
    int wide = (columns + LANES - 1) / LANES * LANES;
#pragma omp parallel for schedule(static)
    for (int i = 0; i < count * rows; i++) {
        size_t begin = (i / rows) * plane + (size_t)(i % rows) * columns,
            corner = begin + 2 * (i / rows) * plane;
        const float *line = frame + corner, *expected = warped + corner, *belief = valid + begin;
        float off[wide], believed[wide], steep[wide], here[wide], below[wide];
        for (int x = columns; x < wide; x++) off[x] = believed[x] = 0;
        for (int x = 0; x < columns; x++) {
            believed[x] = belief[x], off[x] = 0;
            for (int c = 0; c < 3; c++) off[x] += fabsf(line[c * plane + x] - expected[c * plane + x]);
            off[x] *= belief[x];
        }
        for (int x = 0; x < wide; x++) steep[x] = 0;
        if (i % rows < rows - 1) {
            grey_row(line, plane, columns, here), grey_row(line + columns, plane, columns, below);
            for (int x = 0; x < columns - 1; x++) {
                float across = here[x + 1] - here[x], down = below[x] - here[x];
                steep[x] = sqrtf(across * across + down * down);
            }
        }
        workspace[3 * i] = sum_row(off, columns), workspace[3 * i + 1] = sum_row(believed, columns);
        workspace[3 * i + 2] = sum_row(steep, columns);
    }
    float spots[3] = {3.0f * rows * columns, (float)rows * columns, (rows - 1.0f) * (columns - 1.0f)};
    for (int i = 0; i < count; i++)
        for (int k = 0; k < 3; k++) {
            float total = 0;
            for (int row = 0; row < rows; row++) total += workspace[3 * (i * rows + row) + k];
            means[3 * i + k] = total / spots[k];
        }
}
