/* What a place shows from a camera: rays end, surfaces are read, features become colours. See
   tokenizer/place.py, which says the same in operations on tensors. */

enum { CHANNELS = 16, HIDDEN = 64, SCALARS = 10, SEEN = 2 * CHANNELS + SCALARS, TOLD = CHANNELS + 1 };
enum { CHUNK = 48, NARROWINGS = 3 };

typedef struct {
    const float *occupancy, *ground; /* [rows, columns] and, with channels last, as all planes below */
    const float *level, *wall_x, *wall_y;
    const float *depths;
    const float *column, *column_bias; /* [TOLD, HIDDEN]: all weights are inputs first */
    const float *above, *below;        /* [SEEN, HIDDEN] */
    const float *middle, *middle_bias; /* [HIDDEN, HIDDEN] */
    const float *last, *last_bias;     /* [3, HIDDEN]: outputs first */
    int32_t rows, columns, level_rows, level_columns, rise, wall_columns, wall_rows, samples;
    float floor, ceiling, x0, y0, across, along, solid; /* x0, y0: the middle; across, along: of a metre */
} PlaceData;

INLINE float solid_at(const PlaceData *place, float x, float y, float dx, float dy, float depth) {
    return read1(place->occupancy, place->rows, place->columns, x + dx * depth, y + dy * depth) - place->solid;
}

/* Forward depth of the first surface along a ray: where occupancy first rises through a level. */
INLINE float hit(const PlaceData *place, float x, float y, float dx, float dy) {
    float low = 0, high = 0;
    int index = 0;
    for (;; index++) {
        high = solid_at(place, x, y, dx, dy, place->depths[index]);
        if (!index) low = high;
        if (high > 0 || index == place->samples - 1) break;
        low = high;
    }
    float near = place->depths[index ? index - 1 : 0], far = place->depths[index];
    for (int i = 0; i < NARROWINGS; i++) {
        float between = mixed(near, far, within(-low / most(high - low, 1e-6f), 0.05f, 0.95f));
        float found = solid_at(place, x, y, dx, dy, between);
        if (found > 0) far = between, high = found;
        else near = between, low = found;
    }
    return mixed(near, far, within(-low / most(high - low, 1e-6f), 0, 1));
}

INLINE void rectify(float *x) {
    for (int i = 0; i < TILE * HIDDEN; i++) x[i] = most(x[i], 0);
}

/* Colours of a tile of pixels from what is seen there and what their columns share. */
INLINE void paint(const PlaceData *place, const float *first, const float *seen, const float *shared, int count,
                  float *colour, size_t plane) {
    float one[TILE * HIDDEN], two[TILE * HIDDEN];
    const float *rows[TILE];
    for (int p = 0; p < TILE; p++) {
        memcpy(one + p * HIDDEN, shared + (p < count ? p : 0) * HIDDEN, HIDDEN * sizeof(float));
        memcpy(two + p * HIDDEN, place->middle_bias, HIDDEN * sizeof(float));
    }
    tile_of(seen, SEEN, TILE, rows);
    multiply(rows, SEEN, first, one);
    rectify(one);
    tile_of(one, HIDDEN, TILE, rows);
    multiply(rows, HIDDEN, place->middle, two);
    rectify(two);
    for (int p = 0; p < count; p++)
        for (int c = 0; c < 3; c++) {
            vector total = {0};
            for (int j = 0; j < HIDDEN; j += LANES) total += load(two + p * HIDDEN + j) * load(place->last + c * HIDDEN + j);
            colour[c * plane + p] = place->last_bias[c] + sum(total);
        }
}

/* One column of a view: its direction, where its ray ends, and its share of the first layer's sums. */
typedef struct {
    float dx, dy, depth, x, y;
    float shared[HIDDEN];
} Column;

INLINE void march(const PlaceData *place, float x, float y, float dx, float dy, Column *column) {
    float told[TOLD], depth = hit(place, x, y, dx, dy);
    column->dx = dx, column->dy = dy, column->depth = depth;
    column->x = x + dx * depth, column->y = y + dy * depth;
    read16(place->ground, place->rows, place->columns, column->x, column->y, told);
    told[CHANNELS] = logarithm(all(most(depth, 0.05f)))[0];
    for (int j = 0; j < HIDDEN; j += LANES) {
        vector total = load(place->column_bias + j);
        for (int k = 0; k < TOLD; k++) total += told[k] * load(place->column + k * HIDDEN + j);
        store(column->shared + j, total);
    }
}

/* One row of a view. */
INLINE void look_along(const PlaceData *place, float x, float y, float z, float down, const float *first,
                       const Column *columns, int count, float *colour, size_t plane, float *reach) {
    float room = place->ceiling - place->floor, drop = down > 0 ? z - place->floor : place->ceiling - z;
    float seen[CHUNK][SEEN], shared[CHUNK][HIDDEN], scalars[SCALARS][CHUNK], up[CHUNK], until[CHUNK];
    float rise = (z - place->floor) / room, fall = down / -room, ends = drop / most(fabsf(down), 1e-4f);
    for (int begin = 0; begin < count; begin += CHUNK) {
        const Column *some = columns + begin;
        int pixels = count - begin < CHUNK ? count - begin : CHUNK;
        for (int i = 0; i < CHUNK; i++) up[i] = 0;
        for (int i = 0; i < pixels; i++) up[i] = some[i].depth;
        for (int i = 0; i < CHUNK; i += LANES) {
            vector depth = load(up + i), height = rise + fall * depth, far = lesser(all(ends), depth), sine, cosine;
            store(until + i, far);
            store(up + i, (height - 0.5f) * 1.6f);
            waves(height, &sine, &cosine);
            for (int octave = 0; octave < 4; octave++) {
                store(scalars[2 * octave] + i, sine), store(scalars[2 * octave + 1] + i, cosine);
                vector twice = 2 * sine * cosine;
                cosine = 1 - 2 * sine * sine, sine = twice;
            }
            store(scalars[8] + i, lesser(greater(height, all(-2)), all(3)));
            store(scalars[9] + i, logarithm(greater(far, all(0.05f))));
        }
        for (int i = 0; i < pixels; i++) {
            float other[CHANNELS], across = x + some[i].dx * until[i], along = y + some[i].dy * until[i];
            read16(place->wall_x, place->rise, place->wall_columns, some[i].x, up[i], seen[i]);
            read16(place->wall_y, place->rise, place->wall_rows, some[i].y, up[i], other);
            for (int c = 0; c < CHANNELS; c++) seen[i][c] *= other[c];
            read16(place->level, place->level_rows, place->level_columns, across, along, seen[i] + CHANNELS);
            for (int s = 0; s < SCALARS; s++) seen[i][2 * CHANNELS + s] = scalars[s][i];
            memcpy(shared[i], some[i].shared, sizeof some[i].shared);
        }
        memcpy(reach + begin, until, pixels * sizeof(float));
        for (int i = 0; i < pixels; i += TILE)
            paint(place, first, seen[i], shared[i], pixels - i < TILE ? pixels - i : TILE, colour + begin + i, plane);
    }
}

/* All views: planar [views, 4] is x, y, z, yaw; right [count] and down [rows] are the rays, of which the first
   horizon rows look up. Writes colour [views, 3, rows, count] and reach [views, rows, count]. columns is room
   for views x count of them. */
void KERNEL(look)(const PlaceData *place, const float *planar, int views, const float *right, int count,
                  const float *down, int rows, int horizon, float *colour, float *reach, Column *columns) {
    size_t plane = (size_t)rows * count;
#pragma omp parallel
    {
#pragma omp for schedule(static)
        for (int i = 0; i < views * count; i++) {
            const float *at = planar + 4 * (i / count), along = right[i % count];
            float cosine = cosf(at[3]), sine = sinf(at[3]);
            float x = (at[0] - place->x0) * place->across, y = (at[1] - place->y0) * place->along;
            float dx = (cosine + along * sine) * place->across, dy = (sine - along * cosine) * place->along;
            march(place, x, y, dx, dy, columns + i);
        }
#pragma omp for schedule(static)
        for (int i = 0; i < views * rows; i++) {
            int view = i / rows, row = i % rows;
            const float *at = planar + 4 * view;
            float x = (at[0] - place->x0) * place->across, y = (at[1] - place->y0) * place->along;
            look_along(place, x, y, at[2], down[row], row < horizon ? place->above : place->below,
                       columns + (size_t)view * count, count, colour + 3 * view * plane + (size_t)row * count, plane,
                       reach + view * plane + (size_t)row * count);
        }
    }
}
