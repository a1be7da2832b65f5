/* Which code lies where a share of the probability is reached, best code first, without sorting all of them.
 *
 * `sampling.Sampling` says by a sort which one that is. Here codes go into buckets by their scores, and only the bucket
 * where the share is reached is sorted. Sums are taken in another order and the exponential is not PyTorch's: that is less
 * than 1e-10 of the total. Where a sum comes as near as MARGIN to what it is compared with, or scores are out of the
 * ordinary, nothing is said, and a sort decides: so what is said is what the sort would say, to the bit.
 *
 * Legend: R rows, K codes.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define BUCKETS 1024
#define DEEP 32.0    /* logits below the best that buckets reach down to */
#define FULL 256     /* codes of a bucket that are sorted */
#define MOST 65536   /* codes */
#define MARGIN 1e-9  /* of the total */
#define LANES 16

struct row {
    const float *score;
    int64_t K;
    double total;
    const double *weight;  /* of codes */
    const int32_t *bucket; /* of codes, none below one of a lower score */
    const double *mass;    /* of buckets */
};

static inline double exponential(double x) { /* to 1e-12, for -700 <= x <= 0 */
    const double turn = 0x1.8p52; /* adding it leaves whole numbers, in the lowest bits */
    double n = x * 0x1.71547652b82fep+0 + turn, y = 1.0 / 39916800;
    int64_t power, bits;
    memcpy(&power, &n, 8);
    n -= turn;
    x = (x - n * 0x1.62e42fefa3800p-1) - n * 0x1.ef35793c76730p-45; /* the logarithm of 2 in two parts */
    y = y * x + 1.0 / 3628800;
    y = y * x + 1.0 / 362880;
    y = y * x + 1.0 / 40320;
    y = y * x + 1.0 / 5040;
    y = y * x + 1.0 / 720;
    y = y * x + 1.0 / 120;
    y = y * x + 1.0 / 24;
    y = y * x + 1.0 / 6;
    y = y * x + 0.5;
    y = y * x + 1.0;
    y = y * x + 1.0;
    memcpy(&bits, &y, 8);
    bits += (int64_t)((uint64_t)power << 52);
    memcpy(&y, &bits, 8);
    return y;
}

/* The code with which the sum of weights, best code first and the lower one of equals, gets above `target`; -1 where
 * that cannot be told. The sum goes to `sum`. */
static int64_t crossing(const struct row *row, double target, double *sum) {
    int32_t b = 0;
    int64_t codes[FULL], count = 0;
    double before = 0.0, margin = MARGIN * row->total;
    while (b < BUCKETS && before + row->mass[b] <= target) before += row->mass[b++];
    for (int64_t k = 0; k < row->K; k++) {
        if (row->bucket[k] != b) continue;
        if (count == FULL) return -1;
        int64_t place = count++;
        for (; place > 0 && row->score[codes[place - 1]] < row->score[k]; place--) codes[place] = codes[place - 1];
        codes[place] = k;
    }
    for (int64_t n = 0; n < count; n++) {
        *sum = before + row->weight[codes[n]];
        if (*sum > target) return *sum - target > margin && target - before > margin ? codes[n] : -1;
        before = *sum;
    }
    return -1;
}

static int64_t code_of(const float *score, int64_t K, double inverse, double p, const double *uniform) {
    float highs[LANES], lows[LANES], noughts[LANES], high = score[0], low = high, nought = 0.0f;
    for (int n = 0; n < LANES; n++) highs[n] = lows[n] = high, noughts[n] = 0.0f;
    for (int64_t k = 0; k < K; k += LANES) {
        const float *some = score + (K - k < LANES ? (K < LANES ? 0 : K - LANES) : k);
        for (int n = 0; n < LANES && n < K; n++) {
            highs[n] = some[n] > highs[n] ? some[n] : highs[n];
            lows[n] = some[n] < lows[n] ? some[n] : lows[n];
            noughts[n] += some[n] - some[n];
        }
    }
    for (int n = 0; n < LANES; n++) high = fmaxf(high, highs[n]), low = fminf(low, lows[n]), nought += noughts[n];
    if (K > MOST || nought != 0.0f || !(inverse < INFINITY)) return -1;

    double weight[K], mass[BUCKETS] = {0.0}, total = 0.0, sum;
    int32_t bucket[K];
    double scale = BUCKETS / (fmin(((double)high - low) * inverse, DEEP) + 1e-9);
    for (int64_t k = 0; k < K; k++) {
        double x = ((double)score[k] - high) * inverse;
        x = x < -700.0 ? -700.0 : x;
        double place = x * -scale;
        bucket[k] = (int32_t)(place < BUCKETS - 1 ? place : BUCKETS - 1);
        weight[k] = exponential(x);
    }
    for (int64_t k = 0; k < K; k++) mass[bucket[k]] += weight[k];
    for (int b = 0; b < BUCKETS; b++) total += mass[b];
    struct row row = {score, K, total, weight, bucket, mass};
    int64_t last = crossing(&row, p * total, &sum);
    return last < 0 || uniform == 0 ? last : crossing(&row, *uniform * sum, &sum);
}

/* For each row the code that `uniform` draws from the best codes that reach p, or without it the last one of them: to
 * codes, -1 where that cannot be told; returns of how many rows. */
int64_t draw(const float *score, int64_t R, int64_t K, double inverse, double p, const double *uniform, int64_t *codes,
             int64_t threads) {
    int64_t untold = 0;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && R > 1) reduction(+ : untold)
    for (int64_t r = 0; r < R; r++) {
        codes[r] = code_of(score + r * K, K, inverse, p, uniform ? uniform + r : 0);
        untold += codes[r] < 0;
    }
    return untold;
}
