/* Noise that follows from a seed and a number: Philox4x64-10 and Box-Muller. See sampling/noise.py. */

enum { ROUNDS = 10 };

/* The four words of a counter's value. */
INLINE void philox(uint64_t seed, uint64_t draw, uint64_t block, uint64_t index, uint64_t *word) {
    uint64_t a = block, b = 0, c = index, d = 0;
    for (int i = 0; i < ROUNDS; i++) {
        unsigned __int128 first = (unsigned __int128)a * 0xD2E7470EE14C6C93u,
            second = (unsigned __int128)c * 0xCA5A826395121157u;
        a = (uint64_t)(second >> 64) ^ b ^ seed, b = (uint64_t)second;
        c = (uint64_t)(first >> 64) ^ d ^ draw, d = (uint64_t)first;
        seed += 0x9E3779B97F4A7C15u, draw += 0xBB67AE8584CAA73Bu;
    }
    word[0] = a, word[1] = b, word[2] = c, word[3] = d;
}

/* All worlds: seeds and indices [worlds]; to [worlds, count] standard normals. workspace is for 2 count + 8
   doubles. */
void KERNEL(noise)(const int64_t *seeds, const int64_t *indices, int worlds, uint64_t draw, int count,
                   float *to, double *uniform) {
    int pairs = (count + 1) / 2;
    for (int i = 0; i < worlds; i++, to += count) {
        for (int at = 0; at < 2 * pairs; at += 4) {
            uint64_t word[4];
            philox((uint64_t)seeds[i], draw, at / 4 + 1, (uint64_t)indices[i], word);
            for (int k = 0; k < 4; k++) uniform[at + k] = ((double)(word[k] >> 11) + 0.5) * 0x1p-53;
        }
        for (int j = 0; j < pairs; j++) {
            double radius = sqrt(-2 * log(uniform[j])), angle = 2 * PI * uniform[pairs + j];
            to[j] = (float)(radius * cos(angle));
            if (pairs + j < count) to[pairs + j] = (float)(radius * sin(angle));
        }
    }
}
