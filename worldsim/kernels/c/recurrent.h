/* A frame of a recurrent generator whose memory is an LSTM and whose frames are one token, and a pass of its
   flow head. See model/recurrent.py, model/mixer.py, model/temporal.py and model/flow_head.py. */

enum { MAX_MIXERS = 17, MAX_MEMORIES = 8 };

typedef struct {
    DenseData in_proj, out_proj; /* of the channel MLP */
} MixerData;

typedef struct {
    const float *scale, *shift; /* of the norm [width] */
    DenseData gates, output;     /* normed input and hidden state to all four gates; hidden state out */
} LstmData;

typedef struct {
    DenseData condition, embed;                  /* both layers of the condition's embedding */
    /* embedding to the tokens' bias, then every block's scale and shift */
    DenseData guide;
    /* latents in; mean change; the flow head's condition; agent features */
    DenseData input, change, flow, films, agent;
    const float *scale, *shift;                  /* of the last norm [width] */
    MixerData mixers[MAX_MIXERS];
    LstmData memories[MAX_MEMORIES];
    LstmData agent_memory; /* of the agent features, if remembers */
    int32_t layers, width, channels, remembers;
} RecurrentData;

typedef struct {
    const float *hidden, *cell;  /* before the frame [rows, width] */
    float *new_hidden, *new_cell; /* after it */
} LstmStateData;

typedef struct {
    /* [rows, ..] of width, channels, flow, films and agent */
    float *features, *base, *entered, *films, *agent;
} PreparedData;

typedef struct {
    DenseData input, output;
    MixerData mixers[MAX_MIXERS];
    int32_t blocks, width;
} FlowHeadData;

/* Mean and the inverse of the deviation, as a layer norm takes them. */
INLINE float layer_norm_stats(const float *x, int width, float *steep) {
    vector total = {0}, squares = {0};
    for (int c = 0; c < width; c += LANES) total += load(x + c);
    float mean = hsum(total) / width;
    for (int c = 0; c < width; c += LANES) {
        vector apart = load(x + c) - mean;
        squares += apart * apart;
    }
    *steep = 1 / sqrtf(hsum(squares) / width + 1e-5f);
    return mean;
}

/* Called by all threads: x [rows, width] through a mixer block. modulation [rows, step] begins at the block's
   scale and shift; more [2, width] is added to each row's, if there is any. */
INLINE void mixer_block(const MixerData *mixer, int rows, int width, float *x, const float *modulation,
                        size_t step, const float *more, float *normed, float *wide) {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) {
        const float *from = x + (size_t)row * width, *scale = modulation + row * step, *shift = scale + width;
        float steep, mean = layer_norm_stats(from, width, &steep), *to = normed + (size_t)row * width;
        for (int c = 0; c < width; c += LANES) {
            vector large = load(scale + c), far = load(shift + c);
            if (more) large += load(more + c), far += load(more + width + c);
            store(to + c, (load(from + c) - mean) * steep * (1 + large) + far);
        }
    }
    product(&mixer->in_proj, rows, normed, wide, mixer->in_proj.outputs, SILU);
    product(&mixer->out_proj, rows, wide, x, width, ADD);
}

INLINE vector vtanh(vector x) { return 2 * sigmoid(2 * x) - 1; }

/* Called by all threads: x [rows, width] plus an LSTM's output. */
INLINE void lstm_step(const LstmData *lstm, int rows, int width, float *x, const LstmStateData *state,
                      float *normed, float *gates) {
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++) {
        const float *from = x + (size_t)row * width;
        float steep, mean = layer_norm_stats(from, width, &steep), *to = normed + (size_t)row * 2 * width;
        for (int c = 0; c < width; c += LANES)
            store(to + c, (load(from + c) - mean) * steep * load(lstm->scale + c) + load(lstm->shift + c));
        memcpy(to + width, state->hidden + (size_t)row * width, width * sizeof(float));
    }
    product(&lstm->gates, rows, normed, gates, 4 * width, PLAIN);
#pragma omp for schedule(static)
    for (int row = 0; row < rows; row++)
        for (int c = 0; c < width; c += LANES) {
            const float *from = gates + (size_t)row * 4 * width + c;
            size_t at = (size_t)row * width + c;
            vector kept = sigmoid(load(from + width)) * load(state->cell + at);
            vector cell = kept + sigmoid(load(from)) * vtanh(load(from + 2 * width));
            store(state->new_cell + at, cell);
            store(state->new_hidden + at, sigmoid(load(from + 3 * width)) * vtanh(cell));
        }
    product(&lstm->output, rows, state->new_hidden, x, width, ADD);
}

/* Width of the widest LSTM. */
INLINE size_t widest_lstm(const RecurrentData *generator) {
    int agent = generator->remembers ? generator->agent.outputs : 0;
    return agent > generator->width ? agent : generator->width;
}

INLINE size_t widest(const RecurrentData *generator) {
    size_t most = 4 * widest_lstm(generator);
    for (int i = 0; i <= 2 * generator->layers; i++)
        if ((size_t)generator->mixers[i].in_proj.outputs > most) most = generator->mixers[i].in_proj.outputs;
    return (size_t)generator->flow.outputs > most ? (size_t)generator->flow.outputs : most;
}

/* Floats of workspace that a row takes. */
size_t KERNEL(recurrent_workspace)(const RecurrentData *generator) {
    return generator->condition.outputs + generator->embed.outputs + generator->guide.outputs
           + 2 * generator->channels + (size_t)generator->width + 2 * widest_lstm(generator)
           + widest(generator);
}

/* latent and before [rows, channels], condition [rows, conditions]; states [layers], and one more if the
   generator remembers; workspace as above for every row. */
void KERNEL(recurrent_step)(const RecurrentData *generator, int rows, const float *latent,
                            const float *before, const float *condition, const LstmStateData *states,
                            const PreparedData *to, float *workspace) {
    int width = generator->width, channels = generator->channels, head = generator->flow.outputs;
    size_t all = rows, guided = generator->guide.outputs;
    float *first = workspace, *embedded = first + all * generator->condition.outputs;
    float *guide = embedded + all * generator->embed.outputs, *pair = guide + all * guided,
        *x = pair + all * 2 * channels;
    float *normed = x + all * width, *wide = normed + all * 2 * widest_lstm(generator);
#pragma omp parallel
    {
#pragma omp for schedule(static) nowait
        for (int row = 0; row < rows; row++)
            for (int c = 0; c < channels; c++) {
                float now = latent[(size_t)row * channels + c], *at = pair + (size_t)row * 2 * channels + c;
                at[0] = now, at[channels] = 2 * (now - before[(size_t)row * channels + c]);
            }
        product(&generator->condition, rows, condition, first, generator->condition.outputs, SILU);
        product(&generator->embed, rows, first, embedded, generator->embed.outputs, SILU);
        product(&generator->guide, rows, embedded, guide, guided, PLAIN);
        product(&generator->input, rows, pair, x, width, PLAIN);
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++)
            for (int c = 0; c < width; c++) x[(size_t)row * width + c] += guide[row * guided + c];
        for (int i = 0; i <= 2 * generator->layers; i++) {
            const float *modulation = guide + (1 + 2 * i) * width;
            mixer_block(&generator->mixers[i], rows, width, x, modulation, guided, NULL, normed, wide);
            if (i % 2) lstm_step(&generator->memories[i / 2], rows, width, x, &states[i / 2], normed, wide);
        }
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++) {
            const float *from = x + (size_t)row * width;
            float steep, mean = layer_norm_stats(from, width, &steep),
                *features = to->features + (size_t)row * width;
            for (int c = 0; c < width; c += LANES)
                store(features + c, (load(from + c) - mean) * steep * load(generator->scale + c)
                      + load(generator->shift + c));
            memcpy(to->base + (size_t)row * channels, latent + (size_t)row * channels,
                   channels * sizeof(float));
        }
        product(&generator->change, rows, to->features, to->base, channels, ADD);
        product(&generator->agent, rows, to->features, to->agent, generator->agent.outputs, SILU);
        if (generator->remembers)
            lstm_step(&generator->agent_memory, rows, generator->agent.outputs, to->agent,
                      &states[generator->layers], normed, wide);
        product(&generator->flow, rows, to->features, to->entered, head, PLAIN);
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++)
            for (int c = 0; c < head; c += LANES) {
                vector value = load(to->entered + (size_t)row * head + c);
                store(wide + (size_t)row * head + c, value * sigmoid(value));
            }
        product(&generator->films, rows, wide, to->films, generator->films.outputs, PLAIN);
    }
}

/* Floats of workspace that a row takes. */
size_t KERNEL(flow_workspace)(const FlowHeadData *head) {
    return 2 * (size_t)head->width + head->mixers[0].in_proj.outputs;
}

/* noisy and clean [rows, channels], entered [rows, width] and films [rows, blocks, 2, width] by the features,
   times [width] and more [blocks, 2, width] by the pass. */
void KERNEL(flow_pass)(const FlowHeadData *head, int rows, const float *noisy, const float *entered,
                       const float *films, const float *times, const float *more, float *clean,
                       float *workspace) {
    int width = head->width, channels = head->input.inputs;
    size_t step = (size_t)head->blocks * 2 * width;
    float *x = workspace, *normed = x + (size_t)rows * width, *wide = normed + (size_t)rows * width;
#pragma omp parallel
    {
        product(&head->input, rows, noisy, x, width, PLAIN);
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++)
            for (int c = 0; c < width; c++)
                x[(size_t)row * width + c] += entered[(size_t)row * width + c] + times[c];
        for (int i = 0; i < head->blocks; i++)
            mixer_block(&head->mixers[i], rows, width, x, films + 2 * i * width, step, more + 2 * i * width,
                        normed, wide);
#pragma omp for schedule(static)
        for (int row = 0; row < rows; row++)
            for (int c = 0; c < width; c += LANES) {
                vector value = load(x + (size_t)row * width + c);
                store(normed + (size_t)row * width + c, value * sigmoid(value));
            }
        product(&head->output, rows, normed, clean, channels, PLAIN);
    }
}
