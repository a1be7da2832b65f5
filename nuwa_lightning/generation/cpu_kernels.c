/* Products and attention for a few rows: in float32 for processors with AVX2, in int8 and over bfloat16 for those with
 * AVX-512 and its VNNI.
 *
 * What they work out is what `fast_transformer.Exact`, `Int8` and `nuwa_infinity.attend` do; tests hold them together.
 * There they are chains of small operations, which at one row take longer than reading the matrix does.
 *
 * Legend: M rows, I inputs, O outputs, R rows, G key/value heads, H query heads, D head width, S key positions.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

/* -- float32: each sum is taken in one order, whatever stands beside it, so a row has the same bits in any company. -- */

#ifdef __AVX512F__
typedef __m512 vec;
#define LANES 16
#define LOAD _mm512_loadu_ps
#define STORE _mm512_storeu_ps
#define ALL _mm512_set1_ps
#define FMA _mm512_fmadd_ps
#else
typedef __m256 vec;
#define LANES 8
#define LOAD _mm256_loadu_ps
#define STORE _mm256_storeu_ps
#define ALL _mm256_set1_ps
#define FMA _mm256_fmadd_ps
#endif
#define PANEL (2 * LANES) /* outputs that lie side by side */
#define BESIDE 4          /* panels that are worked out together at one row */

int64_t panel(void) { return PANEL; }
int64_t panels(void) { return BESIDE; }

/* `rows` rows times `count` panels of the matrix; the sums of row m go to out + m * BESIDE * PANEL. */
INLINE void panels_of(int rows, int count, const float *h, int64_t I, const float *matrix, float *out) {
    vec sums[6][2 * BESIDE];
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < 2 * count; n++) sums[m][n] = ALL(0.0f);
    for (int64_t i = 0; i < I; i++) {
        const float *here = matrix + i * PANEL;
        for (int p = 0; p < count; p++) {
            _mm_prefetch((const char *)(here + p * I * PANEL + 16 * PANEL), _MM_HINT_T0);
            if (PANEL > 16) _mm_prefetch((const char *)(here + p * I * PANEL + 16 * PANEL + 16), _MM_HINT_T0);
            vec a = LOAD(here + p * I * PANEL), b = LOAD(here + p * I * PANEL + LANES);
            for (int m = 0; m < rows; m++) {
                vec x = ALL(h[m * I + i]);
                sums[m][2 * p] = FMA(x, a, sums[m][2 * p]);
                sums[m][2 * p + 1] = FMA(x, b, sums[m][2 * p + 1]);
            }
        }
    }
    for (int m = 0; m < rows; m++)
        for (int n = 0; n < 2 * count; n++) STORE(out + m * BESIDE * PANEL + n * LANES, sums[m][n]);
}

/* out = (x + bias) + h @ matrix; x (which may be out) and bias may be missing.
 * matrix: [panels][I][PANEL], zeros where it ends before a multiple of BESIDE panels. */
void product32(const float *h, int64_t M, int64_t I, const float *matrix, const float *bias, const float *x, float *out,
               int64_t O, int64_t threads) {
    int64_t groups = (O + BESIDE * PANEL - 1) / (BESIDE * PANEL);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t g = 0; g < groups; g++) {
        float sums[6 * BESIDE * PANEL] __attribute__((aligned(64)));
        int64_t from = g * BESIDE * PANEL, wide = O - from < BESIDE * PANEL ? O - from : BESIDE * PANEL;
        const float *here = matrix + from * I;
        int64_t blocks = (M + 5) / 6, size = (M + blocks - 1) / blocks;
        int step = size == 1 ? BESIDE : size <= 3 ? 2 : 1; /* panels at once: as many as there are registers for */
        for (int p = 0; p < BESIDE; p += step)
            for (int64_t m = 0; m < M; m += size) {
                int rows = (int)(M - m < size ? M - m : size);
                const float *mine = h + m * I, *part = here + p * I * PANEL;
                if (step == BESIDE) panels_of(1, BESIDE, mine, I, part, sums);
                else if (step == 2 && rows == 1) panels_of(1, 2, mine, I, part, sums);
                else if (step == 2 && rows == 2) panels_of(2, 2, mine, I, part, sums);
                else if (step == 2) panels_of(3, 2, mine, I, part, sums);
                else if (rows == 1) panels_of(1, 1, mine, I, part, sums);
                else if (rows == 2) panels_of(2, 1, mine, I, part, sums);
                else if (rows == 3) panels_of(3, 1, mine, I, part, sums);
                else if (rows == 4) panels_of(4, 1, mine, I, part, sums);
                else if (rows == 5) panels_of(5, 1, mine, I, part, sums);
                else panels_of(6, 1, mine, I, part, sums);
                int64_t until = wide - p * PANEL < step * PANEL ? wide - p * PANEL : step * PANEL;
                for (int r = 0; r < rows; r++) {
                    int64_t at = from + p * PANEL, place = (m + r) * O + at;
                    for (int64_t o = 0; o < until; o++) {
                        float b = bias ? bias[at + o] : 0.0f;
                        out[place + o] = (x ? x[place + o] + b : b) + sums[r * BESIDE * PANEL + o];
                    }
                }
            }
    }
}

INLINE __m256 exponential8(__m256 x) { /* to about one unit in the last place, for x <= 0; 0 below -87 */
    __m256 seen = _mm256_cmp_ps(x, _mm256_set1_ps(-87.0f), _CMP_GE_OQ);
    x = _mm256_max_ps(x, _mm256_set1_ps(-87.0f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    x = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    x = _mm256_fmadd_ps(n, _mm256_set1_ps(2.12194440e-4f), x);
    __m256 y = _mm256_set1_ps(1.9875691500e-4f);
    const float more[] = {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f};
    for (int i = 0; i < 5; i++) y = _mm256_fmadd_ps(y, x, _mm256_set1_ps(more[i]));
    y = _mm256_fmadd_ps(y, _mm256_mul_ps(x, x), _mm256_add_ps(x, _mm256_set1_ps(1.0f)));
    __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_and_ps(_mm256_mul_ps(y, _mm256_castsi256_ps(power)), seen);
}

/* Keys and values to come are fetched ahead, here and there past their end, which does no harm.
 * One query over S keys: q, out [D], k and v [S, D], bias [S] or none, p room for S numbers and 7 more. */
INLINE void query(int parts, const float *q, const float *k, const float *v, int64_t S, const float *bias, float *p,
                  float *out) {
    int D = 8 * parts;
    __m256 scale = _mm256_set1_ps(1.0f / sqrtf((float)D)), most = _mm256_set1_ps(-INFINITY);
    for (int64_t s = 0; s < S; s += 8) {
        int last = S - s < 8 ? (int)(S - s) - 1 : 7;
        __m256 a[8];
        const float *row[8];
        for (int n = 0; n < 8; n++) {
            a[n] = _mm256_setzero_ps();
            row[n] = k + (s + (n < last ? n : last)) * D; /* the last one again where there are no more */
        }
        for (int d = 0; d < parts; d++) {
            __m256 part = _mm256_loadu_ps(q + 8 * d);
            for (int n = 0; n < 8; n++) a[n] = _mm256_fmadd_ps(part, _mm256_loadu_ps(row[n] + 8 * d), a[n]);
            for (int n = 0; n < 4; n++) _mm_prefetch((const char *)(row[0] + (16 * D) + 64 * d + 16 * n), _MM_HINT_T0);
        }
        __m256 b = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
        __m256 c = _mm256_hadd_ps(_mm256_hadd_ps(a[4], a[5]), _mm256_hadd_ps(a[6], a[7]));
        __m256 logit = _mm256_add_ps(_mm256_permute2f128_ps(b, c, 0x20), _mm256_permute2f128_ps(b, c, 0x31));
        logit = _mm256_mul_ps(logit, scale);
        if (bias) {
            float more[8];
            for (int n = 0; n < 8; n++) more[n] = bias[s + (n < last ? n : last)];
            logit = _mm256_add_ps(logit, _mm256_loadu_ps(more));
        }
        most = _mm256_max_ps(most, logit);
        _mm256_storeu_ps(p + s, logit);
    }
    float lanes[8], top = -INFINITY, total = 0.0f;
    _mm256_storeu_ps(lanes, most);
    for (int n = 0; n < 8; n++) top = fmaxf(top, lanes[n]);
    __m256 sum = _mm256_setzero_ps();
    for (int64_t s = S; s % 8; s++) p[s] = -INFINITY;
    for (int64_t s = 0; s < S; s += 8) {
        __m256 e = exponential8(_mm256_sub_ps(_mm256_loadu_ps(p + s), _mm256_set1_ps(top)));
        sum = _mm256_add_ps(sum, e);
        _mm256_storeu_ps(p + s, e);
    }
    _mm256_storeu_ps(lanes, sum);
    for (int n = 0; n < 8; n++) total += lanes[n];
    __m256 o[2][8];
    for (int d = 0; d < parts; d++) o[0][d] = o[1][d] = _mm256_setzero_ps();
    for (int64_t s = 0; s < S; s++) { /* even and odd keys apart: sums wait for each other less */
        __m256 share = _mm256_set1_ps(p[s]);
        for (int d = 0; d < parts; d += 2) _mm_prefetch((const char *)(v + (s + 16) * D + 8 * d), _MM_HINT_T0);
        for (int d = 0; d < parts; d++) o[0][d] = _mm256_fmadd_ps(share, _mm256_loadu_ps(v + s * D + 8 * d), o[0][d]);
        if (parts == 4 && ++s < S) {
            share = _mm256_set1_ps(p[s]);
            for (int d = 0; d < parts; d++)
                o[1][d] = _mm256_fmadd_ps(share, _mm256_loadu_ps(v + s * D + 8 * d), o[1][d]);
        }
    }
    for (int d = 0; d < parts; d++)
        _mm256_storeu_ps(out + 8 * d, _mm256_div_ps(_mm256_add_ps(o[0][d], o[1][d]), _mm256_set1_ps(total)));
}

/* The next l positions of each row, each of which sees the keys up to its own: keys (plus own) and values go to places
 * start to start + l, then queries look. qkv [R, l, H + 2 G, D], own [G, D] or none, k and v [R, G, size, D], bias as
 * for attend, out [R, l, H, D]. D is 32 or 64. */
void attend32(const float *qkv, const float *own, float *k, float *v, int64_t R, int64_t l, int64_t G, int64_t H,
              int64_t D, int64_t size, int64_t start, const float *bias, int64_t step, float *out, int64_t threads) {
    int64_t group = H / G, row = (H + 2 * G) * D;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t n = 0; n < R * G; n++) {
        float p[start + l + 8];
        int64_t r = n / G, g = n % G;
        float *keys = k + n * size * D, *values = v + n * size * D;
        for (int64_t j = 0; j < l; j++) {
            const float *mine = qkv + (r * l + j) * row + (H + g) * D;
            for (int64_t d = 0; d < D; d++) {
                keys[(start + j) * D + d] = mine[d] + (own ? own[g * D + d] : 0.0f);
                values[(start + j) * D + d] = mine[G * D + d];
            }
        }
        for (int64_t h = g * group; h < (g + 1) * group; h++)
            for (int64_t j = 0; j < l; j++) {
                const float *q = qkv + (r * l + j) * row + h * D, *more = bias ? bias + r * step : 0;
                float *to = out + ((r * l + j) * H + h) * D;
                if (D == 64) query(8, q, keys, values, start + j + 1, more, p, to);
                else query(4, q, keys, values, start + j + 1, more, p, to);
            }
    }
}

/* -- int8 and bfloat16 -------------------------------------------------------------------------------------------- */

#ifdef __AVX512VNNI__
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
#endif
