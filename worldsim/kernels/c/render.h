/* Rendering of a static scene: march rays, read surface features, shade pixels. See
   scene/static_scene.py, which says the same in operations on tensors. */

enum { CHANNELS = 16, HIDDEN = 64, SCALARS = 10 };
enum { PIXEL_INPUTS = 2 * CHANNELS + SCALARS, COLUMN_INPUTS = CHANNELS + 1 };
enum { CHUNK = 48, ROOT_STEPS = 3 };

typedef struct {
    const float *occupancy, *ground_plane; /* [rows, columns] and, with channels last, as all planes below */
    const float *floor_ceiling_plane, *xz_plane, *yz_plane;
    const float *depths;
    const float *column_in, *column_bias; /* [COLUMN_INPUTS, HIDDEN]: all weights are inputs first */
    const float *above_horizon_in, *below_horizon_in; /* [PIXEL_INPUTS, HIDDEN] */
    const float *middle, *middle_bias; /* [HIDDEN, HIDDEN] */
    const float *last, *last_bias;     /* [3, HIDDEN]: outputs first */
    int32_t rows, columns, floor_ceiling_rows, floor_ceiling_columns, rise, wall_columns, wall_rows, samples;
    /* scale: of a metre in the planes */
    float floor, ceiling, centre_x, centre_y, scale_x, scale_y, surface_level;
} SceneData;

INLINE float occupancy_above_surface(const SceneData *scene, float x, float y, float dx, float dy,
                                     float depth) {
    return sample1(scene->occupancy, scene->rows, scene->columns, x + dx * depth, y + dy * depth)
        - scene->surface_level;
}

/* Forward depth of the first surface along a ray: where occupancy first rises through a level. */
INLINE float find_surface(const SceneData *scene, float x, float y, float dx, float dy) {
    float low = 0, high = 0;
    int index = 0;
    for (;; index++) {
        high = occupancy_above_surface(scene, x, y, dx, dy, scene->depths[index]);
        if (!index) low = high;
        if (high > 0 || index == scene->samples - 1) break;
        low = high;
    }
    float near = scene->depths[index ? index - 1 : 0], far = scene->depths[index];
    for (int i = 0; i < ROOT_STEPS; i++) {
        float between = lerp(near, far, clamp(-low / maxf(high - low, 1e-6f), 0.05f, 0.95f));
        float found = occupancy_above_surface(scene, x, y, dx, dy, between);
        if (found > 0) far = between, high = found;
        else near = between, low = found;
    }
    return lerp(near, far, clamp(-low / maxf(high - low, 1e-6f), 0, 1));
}

INLINE void relu_tile(float *x) {
    for (int i = 0; i < TILE * HIDDEN; i++) x[i] = maxf(x[i], 0);
}

/* Colours of a tile of pixels from their features and their columns' share of the first layer. */
INLINE void shade(const SceneData *scene, const float *first, const float *seen, const float *shared,
                  int count, float *colour, size_t plane) {
    float one[TILE * HIDDEN], two[TILE * HIDDEN];
    const float *rows[TILE];
    for (int p = 0; p < TILE; p++) {
        memcpy(one + p * HIDDEN, shared + (p < count ? p : 0) * HIDDEN, HIDDEN * sizeof(float));
        memcpy(two + p * HIDDEN, scene->middle_bias, HIDDEN * sizeof(float));
    }
    tile_rows(seen, PIXEL_INPUTS, TILE, rows);
    multiply_tile(rows, PIXEL_INPUTS, first, one);
    relu_tile(one);
    tile_rows(one, HIDDEN, TILE, rows);
    multiply_tile(rows, HIDDEN, scene->middle, two);
    relu_tile(two);
    for (int p = 0; p < count; p++)
        for (int c = 0; c < 3; c++) {
            vector total = {0};
            for (int j = 0; j < HIDDEN; j += LANES)
                total += load(two + p * HIDDEN + j) * load(scene->last + c * HIDDEN + j);
            colour[c * plane + p] = scene->last_bias[c] + hsum(total);
        }
}

/* One column of a view: its direction, where its ray ends, and its share of the first layer's sums. */
typedef struct {
    float dx, dy, depth, x, y;
    float shared[HIDDEN];
} Column;

INLINE void march_ray(const SceneData *scene, float x, float y, float dx, float dy, Column *column) {
    float told[COLUMN_INPUTS], depth = find_surface(scene, x, y, dx, dy);
    column->dx = dx, column->dy = dy, column->depth = depth;
    column->x = x + dx * depth, column->y = y + dy * depth;
    sample16(scene->ground_plane, scene->rows, scene->columns, column->x, column->y, told);
    told[CHANNELS] = vlog(splat(maxf(depth, 0.05f)))[0];
    for (int j = 0; j < HIDDEN; j += LANES) {
        vector total = load(scene->column_bias + j);
        for (int k = 0; k < COLUMN_INPUTS; k++) total += told[k] * load(scene->column_in + k * HIDDEN + j);
        store(column->shared + j, total);
    }
}

/* One row of a view. */
INLINE void render_row(const SceneData *scene, float x, float y, float z, float down, const float *first,
                       const Column *columns, int count, float *colour, size_t plane, float *reach) {
    float wall_height = scene->ceiling - scene->floor,
        drop = down > 0 ? z - scene->floor : scene->ceiling - z;
    float seen[CHUNK][PIXEL_INPUTS], shared[CHUNK][HIDDEN], scalars[SCALARS][CHUNK], up[CHUNK], until[CHUNK];
    float rise = (z - scene->floor) / wall_height, fall = down / -wall_height,
        ends = drop / maxf(fabsf(down), 1e-4f);
    for (int begin = 0; begin < count; begin += CHUNK) {
        const Column *some = columns + begin;
        int pixels = count - begin < CHUNK ? count - begin : CHUNK;
        for (int i = 0; i < CHUNK; i++) up[i] = 0;
        for (int i = 0; i < pixels; i++) up[i] = some[i].depth;
        for (int i = 0; i < CHUNK; i += LANES) {
            vector depth = load(up + i), height = rise + fall * depth, far = vmin(splat(ends), depth), sine,
                cosine;
            store(until + i, far);
            store(up + i, (height - 0.5f) * 1.6f);
            sincospi_v(height, &sine, &cosine);
            for (int octave = 0; octave < 4; octave++) {
                store(scalars[2 * octave] + i, sine), store(scalars[2 * octave + 1] + i, cosine);
                vector twice = 2 * sine * cosine;
                cosine = 1 - 2 * sine * sine, sine = twice;
            }
            store(scalars[8] + i, vmin(vmax(height, splat(-2)), splat(3)));
            store(scalars[9] + i, vlog(vmax(far, splat(0.05f))));
        }
        for (int i = 0; i < pixels; i++) {
            float other[CHANNELS], across = x + some[i].dx * until[i], along = y + some[i].dy * until[i];
            sample16(scene->xz_plane, scene->rise, scene->wall_columns, some[i].x, up[i], seen[i]);
            sample16(scene->yz_plane, scene->rise, scene->wall_rows, some[i].y, up[i], other);
            for (int c = 0; c < CHANNELS; c++) seen[i][c] *= other[c];
            sample16(scene->floor_ceiling_plane, scene->floor_ceiling_rows, scene->floor_ceiling_columns,
                     across, along, seen[i] + CHANNELS);
            for (int s = 0; s < SCALARS; s++) seen[i][2 * CHANNELS + s] = scalars[s][i];
            memcpy(shared[i], some[i].shared, sizeof some[i].shared);
        }
        memcpy(reach + begin, until, pixels * sizeof(float));
        for (int i = 0; i < pixels; i += TILE)
            shade(scene, first, seen[i], shared[i], pixels - i < TILE ? pixels - i : TILE, colour + begin + i,
                  plane);
    }
}

/* All views: planar [views, 4] is x, y, z, yaw; right [count] and down [rows] are the rays, of which the
   first horizon rows look up. Writes colour [views, 3, rows, count] and reach [views, rows, count]. columns
   is workspace for views x count of them. */
void KERNEL(render)(const SceneData *scene, const float *planar, int views, const float *right, int count,
                  const float *down, int rows, int horizon, float *colour, float *reach, Column *columns) {
    size_t plane = (size_t)rows * count;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < views * count; i++) {
            const float *at = planar + 4 * (i / count), along = right[i % count];
            float cosine = cosf(at[3]), sine = sinf(at[3]);
            float x = (at[0] - scene->centre_x) * scene->scale_x,
                y = (at[1] - scene->centre_y) * scene->scale_y;
            float dx = (cosine + along * sine) * scene->scale_x,
                dy = (sine - along * cosine) * scene->scale_y;
            march_ray(scene, x, y, dx, dy, columns + i);
        }
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            int view = i / rows, row = i % rows;
            const float *at = planar + 4 * view;
            float x = (at[0] - scene->centre_x) * scene->scale_x,
                y = (at[1] - scene->centre_y) * scene->scale_y;
            render_row(scene, x, y, at[2], down[row],
                       row < horizon ? scene->above_horizon_in : scene->below_horizon_in,
                       columns + (size_t)view * count, count,
                       colour + 3 * view * plane + (size_t)row * count, plane,
                       reach + view * plane + (size_t)row * count);
        }
    }
}
