/* Products in int8 and attention over bfloat16 for a few rows, for processors with AVX-512 and its VNNI.
 *
 * What they work out is what `decoding.Int8` and `attention.attend` do; tests hold them together. There they are chains
 * of small operations, which at one row take longer than reading the matrix does.
 *
 * Legend: M rows, I inputs, O outputs, R rows, G key/value heads, H query heads, D head width, S key positions.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define TILE 64  /* outputs worked out at once: four registers of sums for each row */
#define CHUNK 16 /* rows whose inputs are held at once */

/* One row to whole numbers 1..255, of which 128 stands for 0; returns its largest magnitude. */
static float quantize(const float *h, int64_t I, int64_t padded, uint8_t *q) {
    __m512 most = _mm512_setzero_ps();
    for (int64_t i = 0; i < I; i += 16) {
        __mmask16 some = I - i < 16 ? (__mmask16)((1u << (I - i)) - 1) : 0xffff;
        most = _mm512_max_ps(most, _mm512_abs_ps(_mm512_maskz_loadu_ps(some, h + i)));
    }
    float scale = fmaxf(_mm512_reduce_max_ps(most), 1e-12f);
    __m512 inverse = _mm512_set1_ps(127.0f / scale);
    __m512i middle = _mm512_set1_epi32(128);
    for (int64_t i = 0; i < padded; i += 16) {
        __mmask16 some = I - i < 16 ? (I > i ? (__mmask16)((1u << (I - i)) - 1) : 0) : 0xffff;
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(some, h + i), inverse));
        _mm_storeu_si128((__m128i *)(q + i), _mm512_cvtepi32_epi8(_mm512_add_epi32(whole, middle)));
    }
    return scale;
}

INLINE void tile(int rows, const uint8_t *q, int64_t padded, const int8_t *matrix, __m512i sums[4][4]) {
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < 4; n++) sums[m][n] = _mm512_setzero_si512();
    for (int64_t i = 0; i < padded; i += 4, matrix += 4 * TILE) {
        _mm_prefetch((const char *)matrix + 2048, _MM_HINT_T0);
        _mm_prefetch((const char *)matrix + 2112, _MM_HINT_T0);
        _mm_prefetch((const char *)matrix + 2176, _MM_HINT_T0);
        _mm_prefetch((const char *)matrix + 2240, _MM_HINT_T0);
        __m512i w[4];
        for (int n = 0; n < 4; n++) w[n] = _mm512_loadu_si512(matrix + 64 * n);
        for (int m = 0; m < rows; m++) {
            __m512i four = _mm512_set1_epi32(*(const int32_t *)(q + m * padded + i));
            for (int n = 0; n < 4; n++) sums[m][n] = _mm512_dpbusd_epi32(sums[m][n], four, w[n]);
        }
    }
}

/* out = bias + scales * (h in int8 @ matrix in int8), plus x if there is one (x may be out).
 * matrix: [O / TILE][I / 4][TILE][4], zeros where it ends before a multiple of TILE or of 16 inputs; middle: 128 times
 * the sum of each output's weights; scale: of each output. */
void product(const float *h, int64_t M, int64_t I, const int8_t *matrix, const int32_t *middle, const float *scale,
             const float *bias, const float *x, float *out, int64_t O) {
    int64_t padded = (I + 15) / 16 * 16;
    uint8_t q[CHUNK * padded] __attribute__((aligned(64)));
    float scales[CHUNK];
    for (int64_t start = 0; start < M; start += CHUNK) {
        int64_t count = M - start < CHUNK ? M - start : CHUNK;
        for (int64_t m = 0; m < count; m++) scales[m] = quantize(h + (start + m) * I, I, padded, q + m * padded);
        for (int64_t o = 0; o < O; o += TILE) {
            const int8_t *here = matrix + o * padded;
            for (int64_t m = 0; m < count; m += 4) {
                __m512i sums[4][4];
                int rows = count - m < 4 ? (int)(count - m) : 4;
                if (rows == 1) tile(1, q + m * padded, padded, here, sums);
                else if (rows == 2) tile(2, q + m * padded, padded, here, sums);
                else if (rows == 3) tile(3, q + m * padded, padded, here, sums);
                else tile(4, q + m * padded, padded, here, sums);
                for (int r = 0; r < rows; r++) {
                    __m512 row = _mm512_set1_ps(scales[m + r]);
                    for (int n = 0; n < 4; n++) {
                        int64_t at = o + 16 * n;
                        if (at >= O) break;
                        __mmask16 some = O - at < 16 ? (__mmask16)((1u << (O - at)) - 1) : 0xffff;
                        __m512i whole = _mm512_sub_epi32(sums[r][n], _mm512_maskz_loadu_epi32(some, middle + at));
                        __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(whole), _mm512_maskz_loadu_ps(some, scale + at));
                        __m512 b = _mm512_maskz_loadu_ps(some, bias + at);
                        int64_t place = (start + m + r) * O + at;
                        if (x) b = _mm512_add_ps(_mm512_maskz_loadu_ps(some, x + place), b);
                        _mm512_mask_storeu_ps(out + place, some, _mm512_fmadd_ps(y, row, b));
                    }
                }
            }
        }
    }
}

INLINE __m512 wide(const uint16_t *half) { /* bfloat16 is the upper half of a float */
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)half)), 16));
}

INLINE __m512 sums_of(__m512 a[16]) { /* lane n is the sum over a[n] */
    for (int n = 0; n < 16; n += 2)
        a[n] = _mm512_add_ps(_mm512_unpacklo_ps(a[n], a[n + 1]), _mm512_unpackhi_ps(a[n], a[n + 1]));
    for (int n = 0; n < 16; n += 4) {
        __m512d low = _mm512_castps_pd(a[n]), high = _mm512_castps_pd(a[n + 2]);
        a[n] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                             _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
    }
    for (int n = 0; n < 16; n += 8)
        a[n] = _mm512_add_ps(_mm512_shuffle_f32x4(a[n], a[n + 4], 0x88), _mm512_shuffle_f32x4(a[n], a[n + 4], 0xdd));
    return _mm512_add_ps(_mm512_shuffle_f32x4(a[0], a[8], 0x88), _mm512_shuffle_f32x4(a[0], a[8], 0xdd));
}

INLINE __m512 exponential(__m512 x) { /* to about one unit in the last place, for x <= 0 */
    x = _mm512_max_ps(x, _mm512_set1_ps(-100.0f));
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
    x = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
    x = _mm512_fmadd_ps(n, _mm512_set1_ps(2.12194440e-4f), x);
    __m512 y = _mm512_set1_ps(1.9875691500e-4f);
    const float more[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    for (int i = 0; i < 5; i++) y = _mm512_fmadd_ps(y, x, _mm512_set1_ps(more[i]));
    y = _mm512_fmadd_ps(y, _mm512_mul_ps(x, x), _mm512_add_ps(x, _mm512_set1_ps(1.0f)));
    return _mm512_scalef_ps(y, n);
}

INLINE void mix(int heads, int parts, const float *p, int64_t stride, const uint16_t *v, int64_t S, float *out) {
    __m512 o[4][8];
    for (int h = 0; h < heads; h++)
        for (int d = 0; d < parts; d++) o[h][d] = _mm512_setzero_ps();
    for (int64_t s = 0; s < S; s++, v += 16 * parts) {
        __m512 row[8];
        for (int d = 0; d < parts; d++) row[d] = wide(v + 16 * d);
        for (int h = 0; h < heads; h++) {
            __m512 share = _mm512_set1_ps(p[h * stride + s]);
            for (int d = 0; d < parts; d++) o[h][d] = _mm512_fmadd_ps(share, row[d], o[h][d]);
        }
    }
    for (int h = 0; h < heads; h++)
        for (int d = 0; d < parts; d++) _mm512_storeu_ps(out + 16 * (h * parts + d), o[h][d]);
}

/* The queries of one key/value head over S keys. */
INLINE void group(int parts, const float *q, const uint16_t *k, const uint16_t *v, int M, int64_t S, const float *bias,
                  float *out) {
    int64_t stride = (S + 15) / 16 * 16;
    float p[M * stride] __attribute__((aligned(64))), block[16 * 16 * parts] __attribute__((aligned(64)));
    __m512 most[M];
    for (int h = 0; h < M; h++) most[h] = _mm512_set1_ps(-INFINITY);
    __m512 scale = _mm512_set1_ps(1.0f / sqrtf(16.0f * parts));
    for (int64_t s = 0; s < S; s += 16) {
        int count = S - s < 16 ? (int)(S - s) : 16;
        for (int n = 0; n < 16 * parts; n++) {
            __m512 part = n < count * parts ? wide(k + s * 16 * parts + 16 * n) : _mm512_setzero_ps();
            _mm512_store_ps(block + 16 * n, part);
        }
        __mmask16 some = (__mmask16)((1u << count) - 1);
        __m512 more = bias ? _mm512_maskz_loadu_ps(some, bias + s) : _mm512_setzero_ps();
        for (int h = 0; h < M; h++) {
            __m512 a[16];
            for (int n = 0; n < 16; n++) a[n] = _mm512_setzero_ps();
            for (int d = 0; d < parts; d++) {
                __m512 part = _mm512_loadu_ps(q + 16 * (h * parts + d));
                for (int n = 0; n < 16; n++)
                    a[n] = _mm512_fmadd_ps(part, _mm512_load_ps(block + 16 * (n * parts + d)), a[n]);
            }
            __m512 logit = _mm512_mask_fmadd_ps(sums_of(a), 0xffff, scale, more);
            logit = _mm512_mask_blend_ps(some, _mm512_set1_ps(-INFINITY), logit);
            most[h] = _mm512_max_ps(most[h], logit);
            _mm512_store_ps(p + h * stride + s, logit);
        }
    }
    float total[M];
    for (int h = 0; h < M; h++) {
        __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most[h])), sum = _mm512_setzero_ps();
        for (int64_t s = 0; s < stride; s += 16) {
            __m512 logit = _mm512_load_ps(p + h * stride + s);
            __mmask16 seen = _mm512_cmp_ps_mask(logit, _mm512_set1_ps(-INFINITY), _CMP_GT_OQ);
            __m512 e = _mm512_maskz_mov_ps(seen, exponential(_mm512_sub_ps(logit, top)));
            sum = _mm512_add_ps(sum, e);
            _mm512_store_ps(p + h * stride + s, e);
        }
        total[h] = _mm512_reduce_add_ps(sum);
    }
    for (int h = 0; h < M; h += 4) {
        const float *mine = p + h * stride;
        float *to = out + 16 * h * parts;
        if (M - h == 1) mix(1, parts, mine, stride, v, S, to);
        else if (M - h == 2) mix(2, parts, mine, stride, v, S, to);
        else if (M - h == 3) mix(3, parts, mine, stride, v, S, to);
        else mix(4, parts, mine, stride, v, S, to);
    }
    for (int h = 0; h < M; h++)
        for (int d = 0; d < parts; d++) {
            float *place = out + 16 * (h * parts + d);
            _mm512_storeu_ps(place, _mm512_mul_ps(_mm512_loadu_ps(place), _mm512_set1_ps(1.0f / total[h])));
        }
}

/* One query position of each row: q and out [R, H, D], k and v [R, G, size, D] of which S positions count, bias [R, S']
 * with a step of `step` from row to row, or none. D is 32 or 64. */
void attend(const float *q, const uint16_t *k, const uint16_t *v, int64_t R, int64_t G, int64_t H, int64_t D,
            int64_t size, int64_t S, const float *bias, int64_t step, float *out) {
    int M = (int)(H / G);
    for (int64_t n = 0; n < R * G; n++) {
        const float *mine = q + n * M * D, *more = bias ? bias + n / G * step : 0;
        const uint16_t *keys = k + n * size * D, *values = v + n * size * D;
        if (D == 64) group(4, mine, keys, values, M, S, more, out + n * M * D);
        else group(2, mine, keys, values, M, S, more, out + n * M * D);
    }
}
