// LeNet-5's forward and backward pass on one CPU thread, near the machine's matrix rate.
//
// A vector holds one number of each of LANES samples, a group: the sample is the innermost index everywhere,
// [row][column][channel][LANES]. So every operation is the same for all samples, no lane is ever idle in a convolution's
// border, and nearly all work is one loop: a few outputs += broadcast weight * input (`Tile`), for a block of two or four
// groups, so that a weight is read once for all of them. Weights are read as PyTorch has them.
//
// Stages, in order:
//   load      images -> x [32][32][1]
//   conv1     x -> a1 [28][28][6] (after tanh) -> p1 [14][14][6] (pooled)
//   conv2     p1 -> a2 [10][10][16] -> p2 [16][5][5]
//   conv3     p2 -> h1 [120]: on 5x5 it is a dense layer; fc1: -> h2 [84]; fc2: -> logits [10]
// and backward the other way: g5, g4, g3 are the gradients at the inputs of fc2's output, fc1's tanh and conv3's tanh. What
// the forward pass leaves for the backward pass is the tape; the caller owns it. With the loss computed here, a block goes
// forward and backward before the next one, and its tape stays in the cache.
//
// Every width of vectors gives the same bits: an output depends on its sample alone, and sums over samples and pixels are
// taken in one order, with SUMS samples side by side.
//
// Written with the vector extensions that GCC and Clang share, for little-endian machines. -ffast-math is not wanted: a loss
// that is not finite must stay visible.

#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

// KEEP has the compiler keep a value in a register, where it would load it again for each use.
#ifdef WIDTH  // another width than the processor's was asked for: such vectors may fit into no register
#define KEEP(value)
#elif defined(__AVX512F__)
#define WIDTH 16
#define KEEP(value) asm("" : "+v"(value))
#elif defined(__AVX2__)
#define WIDTH 8
#define KEEP(value) asm("" : "+v"(value))
#elif defined(__aarch64__)
#define WIDTH 4
#define KEEP(value) asm("" : "+w"(value))
#else
#define WIDTH 4
#define KEEP(value)
#endif

// Floats of one vector, how many vectors a tile takes at once, and how many the processor has room for.
constexpr int LANES = WIDTH, GROUPS = LANES == 4 ? 4 : 2, REGISTERS = LANES == 8 ? 16 : 32;
constexpr int BLOCK = LANES * GROUPS;  // samples
// Samples that are that many apart are added up one after the other, the last first; the sums come together at the end.
constexpr int SUMS = 16, PARTS = SUMS / LANES;

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

constexpr int SIDE = 32, SIDE1 = 28, POOL1 = 14, SIDE2 = 10, POOL2 = 5, K = 5;
constexpr int C1 = 6, C2 = 16, FLAT = POOL2 * POOL2 * C2, H1 = 120, H2 = 84, CLASSES = 10;
// Outputs of one tile, so that its accumulators, N x GROUPS, leave registers for the inputs and a weight: at most 12 of 16,
// or 24 of 32.
constexpr bool WIDE = REGISTERS / GROUPS >= 16;
constexpr int N3 = WIDE ? 12 : 6, N4 = N3, N5 = WIDE ? 10 : 5, NFLAT = N5;

inline vec load(const float* from) {
    vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, vec value) { std::memcpy(to, &value, sizeof value); }

inline vec broadcast(float value) { return value - vec{}; }

// N outputs of one block in registers. Loops over a tile are unrolled: an index that is not a constant would keep it in
// memory.
template <int N>
struct Tile {
    vec sum[N][GROUPS];

    inline void set(const float* bias) {
#pragma GCC unroll 16
        for (int n = 0; n < N; n++)
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) sum[n][g] = broadcast(bias[n]);
    }

    inline void clear() {
#pragma GCC unroll 16
        for (int n = 0; n < N; n++)
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) sum[n][g] = vec{};
    }

    // += sum over k of weights[n * OUT + k * IN] * input[k * STEP], for each of the outputs. The next group is `next` further.
    template <int OUT, int IN, int STEP = LANES>
    inline void add(const float* input, int64_t next, const float* weights, int count) {
        for (int k = 0; k < count; k++, input += STEP, weights += IN) {
            vec value[GROUPS];
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) value[g] = load(input + g * next);
#pragma GCC unroll 16
            for (int n = 0; n < N; n++) {
                vec weight = broadcast(weights[n * OUT]);
#pragma GCC unroll 4
                for (int g = 0; g < GROUPS; g++) sum[n][g] += weight * value[g];
            }
        }
    }

    inline void put(float* to, int64_t next) const {
#pragma GCC unroll 16
        for (int n = 0; n < N; n++)
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++) store(to + n * LANES + g * next, sum[n][g]);
    }
};

// exp(2h) = (part + 1) * power, for h of at least -43 and at most 44; `part` is exp(2f) - 1, where 2f is what is left of 2h
// beside a multiple of ln 2. The polynomial has the least maximum error of `part`, and was fitted for this file.
struct Exponential {
    vec part, power;

    inline explicit Exponential(vec h) {
        vec shifted = h * 2.88539008f + 12582912.0f;  // 1.5 * 2^23: its last bits are the nearest whole number
        vec whole = shifted - 12582912.0f;
        vec f = h - whole * 0.34657359f;
        part = (((8.886311225e-2f * f + 2.677307885e-1f) * f + 6.666745151e-1f) * f + 1.333323441f) * f + 1.999999934f;
        part = part * (f * f) + (f + f);
        power = (vec)(((ivec)shifted << 23) + 0x3f800000);
    }
};

// tanh with an error below 2.6 units in the last place, of 0.6 in the root mean square: with e = exp(2|x|) - 1 it is
// e / (e + 2), which keeps what is left of 1 - tanh^2 where the network saturates.
inline vec tanh_of(vec x) {
    ivec sign = (ivec)x & INT32_MIN;
    vec size = (vec)((ivec)x & INT32_MAX);
    size = size > 9.02f ? broadcast(9.02f) : size;  // whose tanh is 1; a NaN is not above it and stays
    Exponential of(size);
    vec e = of.part * of.power + (of.power - 1.0f);
    return (vec)((ivec)(e / (e + 2.0f)) | sign);
}

// exp of what is at most 0. Below -86 it is that of -86.
inline vec exp_of(vec x) {
    x = x < -86.0f ? broadcast(-86.0f) : x;
    Exponential of(0.5f * x);
    return of.part * of.power + of.power;
}

inline vec slope(vec tanh) { return 1.0f - tanh * tanh; }

// Everything of one group that a backward pass needs, in floats.
struct Group {
    float x[SIDE * SIDE * LANES];
    float a1[SIDE1 * SIDE1 * C1 * LANES], p1[POOL1 * POOL1 * C1 * LANES];
    float a2[SIDE2 * SIDE2 * C2 * LANES], p2[FLAT * LANES];
    float h1[H1 * LANES], h2[H2 * LANES];
};
constexpr int64_t NEXT = sizeof(Group) / sizeof(float);

// What the dense layers' weight gradients are made of, of one group.
struct Dense {
    float p2[LANES * FLAT], h1[LANES * H1], h2[LANES * H2];      // [sample][element]
    float g3[H1 * LANES], g4[H2 * LANES], g5[CLASSES * LANES];
};
constexpr int64_t NEXT_DENSE = sizeof(Dense) / sizeof(float);

// What the backward pass of one group makes on its way: the gradients at the inputs of conv3, of conv2, and before each tanh.
struct Scratch {
    float dp2[FLAT * LANES], g2[SIDE2 * SIDE2 * C2 * LANES], dp1[POOL1 * POOL1 * C1 * LANES];
    float g1[SIDE1 * C1 * LANES];
};
constexpr int64_t NEXT_SCRATCH = sizeof(Scratch) / sizeof(float);

struct Parameters {
    const float *w1, *b1, *w2, *b2, *w3, *b3, *w4, *b4, *w5, *b5;
};

struct Gradients {
    float *w1, *b1, *w2, *b2, *w3, *b3, *w4, *b4, *w5, *b5;
};

// The samples of a batch from `first` on. The last sample fills up a short block: whatever it is, it brings in nothing that
// is not there already, as a zero would where a weight is infinite. Its copies' gradients are zero.
template <typename Pixel>
struct Images {
    const Pixel* all;
    int samples;

    const Pixel* sample(int at) const { return all + (at < samples ? at : samples - 1) * SIDE * SIDE; }
};

void load_group(const Images<float>& images, int first, float* x) {
    for (int lane = 0; lane < LANES; lane++) {
        const float* from = images.sample(first + lane);
        for (int pixel = 0; pixel < SIDE * SIDE; pixel++) x[pixel * LANES + lane] = from[pixel];
    }
}

// Four pixels of each sample at a time, divided by 255.
void load_group(const Images<uint8_t>& images, int first, float* x) {
    const uint8_t* from[LANES];
    for (int lane = 0; lane < LANES; lane++) from[lane] = images.sample(first + lane);
    for (int pixel = 0; pixel < SIDE * SIDE; pixel += 4) {
        ivec four;
#pragma GCC unroll 16
        for (int lane = 0; lane < LANES; lane++) {
            int32_t word;
            std::memcpy(&word, from[lane] + pixel, sizeof word);
            four[lane] = word;
        }
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++)
            store(x + (pixel + n) * LANES, __builtin_convertvector(four >> 8 * n & 255, vec) / 255.0f);
    }
}

// tanh of all these values. A function by itself: folded into a tile's loop, its constants would take the registers.
__attribute__((noinline)) void tanh_in_place(float* values, int count) {
    for (int at = 0; at < count; at += LANES) store(values + at, tanh_of(load(values + at)));
}

// Two rows of a convolution's output, [2][x][CHANNELS], through tanh, and the means of each 2 x 2 pixels.
template <int SIDE_OUT, int CHANNELS, int CHANNEL_STEP, int PIXEL_STEP>
__attribute__((noinline)) void tanh_and_pool(float* rows, float* pooled) {
    constexpr int PIXEL = CHANNELS * LANES, ROW = SIDE_OUT * PIXEL;
    for (int x = 0; x < SIDE_OUT / 2; x++, rows += PIXEL)
        for (int c = 0; c < CHANNELS; c++, rows += LANES) {
            vec of[4];
#pragma GCC unroll 4
            for (int n = 0; n < 4; n++) {
                float* at = rows + n / 2 * ROW + n % 2 * PIXEL;
                of[n] = tanh_of(load(at));
                store(at, of[n]);
            }
            store(pooled + (x * PIXEL_STEP + c * CHANNEL_STEP) * LANES, 0.25f * (of[0] + of[1] + of[2] + of[3]));
        }
}

// One row of conv1's output, [x][C1], before tanh.
__attribute__((noinline)) void conv1_row(const float* input, const Parameters& from, float* to) {
    for (int x = 0; x < SIDE1; x++) {
        Tile<C1> tile;
        tile.set(from.b1);
        for (int ky = 0; ky < K; ky++) tile.add<K * K, 1>(input + (ky * SIDE + x) * LANES, NEXT, from.w1 + ky * K, K);
        tile.put(to + x * C1 * LANES, NEXT);
    }
}

// N channels of one row of conv2's output, [x][C2], before tanh.
template <int N>
__attribute__((noinline)) void conv2_row(const float* input, const float* weights, const float* bias, float* to) {
    for (int x = 0; x < SIDE2; x++) {
        Tile<N> tile;
        tile.set(bias);
        for (int ky = 0; ky < K; ky++)
            for (int kx = 0; kx < K; kx++)
                tile.template add<C1 * K * K, K * K>(
                    input + (ky * POOL1 + x + kx) * C1 * LANES, NEXT, weights + ky * K + kx, C1);
        tile.put(to + x * C2 * LANES, NEXT);
    }
}

// Channels `FIRST` on of that row, in tiles as large as there is room for and as alike as can be: 8 and 8, or 6, 5 and 5.
template <int FIRST = 0>
void conv2_channels(const float* input, const Parameters& from, float* to) {
    if constexpr (FIRST < C2) {
        constexpr int LEFT = C2 - FIRST, MOST = WIDE ? 8 : 6, TILES = (LEFT + MOST - 1) / MOST;
        constexpr int N = (LEFT + TILES - 1) / TILES;
        conv2_row<N>(input, from.w2 + FIRST * C1 * K * K, from.b2 + FIRST, to + FIRST * LANES);
        conv2_channels<FIRST + N>(input, from, to);
    }
}

// The convolutions of a block.
void conv1(Group* block, const Parameters& from) {
    constexpr int ROW = SIDE1 * C1 * LANES;
    for (int y = 0; y < SIDE1; y += 2) {
        for (int row = y; row < y + 2; row++) conv1_row(block->x + row * SIDE * LANES, from, block->a1 + row * ROW);
        for (int g = 0; g < GROUPS; g++)
            tanh_and_pool<SIDE1, C1, 1, C1>(block[g].a1 + y * ROW, block[g].p1 + y / 2 * POOL1 * C1 * LANES);
    }
}

void conv2(Group* block, const Parameters& from) {
    constexpr int ROW = SIDE2 * C2 * LANES;
    for (int y = 0; y < SIDE2; y += 2) {
        for (int row = y; row < y + 2; row++)
            conv2_channels(block->p1 + row * POOL1 * C1 * LANES, from, block->a2 + row * ROW);
        for (int g = 0; g < GROUPS; g++)
            tanh_and_pool<SIDE2, C2, POOL2 * POOL2, 1>(block[g].a2 + y * ROW, block[g].p2 + y / 2 * POOL2 * LANES);
    }
}

// OUT outputs of a dense layer, whose weights are [OUT][IN].
template <int N, int IN, int OUT>
__attribute__((noinline)) void dense(
    const float* input, const float* weights, const float* bias, float* output, int64_t next_output) {
    for (int o = 0; o < OUT; o += N) {
        Tile<N> tile;
        tile.set(bias + o);
        tile.template add<IN, 1>(input, NEXT, weights + o * IN, IN);
        tile.put(output + o * LANES, next_output);
    }
}

// Logits, [CLASSES] of each group.
void dense_layers(Group* block, const Parameters& from, float* logits) {
    dense<N3, FLAT, H1>(block->p2, from.w3, from.b3, block->h1, NEXT);
    for (int g = 0; g < GROUPS; g++) tanh_in_place(block[g].h1, H1 * LANES);
    dense<N4, H1, H2>(block->h1, from.w4, from.b4, block->h2, NEXT);
    for (int g = 0; g < GROUPS; g++) tanh_in_place(block[g].h2, H2 * LANES);
    dense<N5, H2, CLASSES>(block->h2, from.w5, from.b5, logits, CLASSES * LANES);
}

// The gradient at a dense layer's input.
template <int N, int IN, int OUT>
__attribute__((noinline)) void dense_backward(const float* gradient, const float* weights, float* to, int64_t next_to) {
    for (int i = 0; i < IN; i += N) {
        Tile<N> tile;
        tile.clear();
        tile.template add<1, IN>(gradient, NEXT_DENSE, weights + i, OUT);
        tile.put(to + i * LANES, next_to);
    }
}

inline void through_tanh(const float* tanh, float* gradient, int count) {
    for (int at = 0; at < count; at += LANES) store(gradient + at, load(gradient + at) * slope(load(tanh + at)));
}

void dense_inputs(const Group* block, const Parameters& from, Dense* dense, Scratch* scratch) {
    dense_backward<N4, H2, CLASSES>(dense->g5, from.w5, dense->g4, NEXT_DENSE);
    for (int g = 0; g < GROUPS; g++) through_tanh(block[g].h2, dense[g].g4, H2 * LANES);
    dense_backward<N3, H1, H2>(dense->g4, from.w4, dense->g3, NEXT_DENSE);
    for (int g = 0; g < GROUPS; g++) through_tanh(block[g].h1, dense[g].g3, H1 * LANES);
    dense_backward<NFLAT, FLAT, H1>(dense->g3, from.w3, scratch->dp2, NEXT_SCRATCH);
}

template <int COUNT>
inline void transpose(const float* from, float* to) {
    for (int lane = 0; lane < LANES; lane++)
        for (int at = 0; at < COUNT; at++) to[lane * COUNT + at] = from[at * LANES + lane];
}

void transpose(const Group& group, Dense& to) {
    transpose<FLAT>(group.p2, to.p2);
    transpose<H1>(group.h1, to.h1);
    transpose<H2>(group.h2, to.h2);
}

// Weight gradients of a dense layer over all samples: those of output n, of one sample after the other, times the elements
// of that sample, LANES x GROUPS of them at once.
template <int N, int IN, int OUT>
__attribute__((noinline)) void dense_weights(
    const Dense* groups, int samples, const float (Dense::*gradient)[OUT * LANES], const float (Dense::*elements)[LANES * IN],
    float* to) {
    // The last elements, where there are too few for a tile, with those before them once more.
    for (int i = 0; i < IN; i += BLOCK) {
        int first = i + BLOCK <= IN ? i : IN - BLOCK;
        for (int o = 0; o < OUT; o += N) {
            Tile<N> tile;
            tile.clear();
            for (int s = 0; s < samples; s += LANES) {
                const Dense& group = groups[s / LANES];
                tile.template add<LANES, 1, IN>(
                    group.*elements + first, LANES, group.*gradient + o * LANES, samples - s < LANES ? samples - s : LANES);
            }
#pragma GCC unroll 16
            for (int n = 0; n < N; n++)
#pragma GCC unroll 4
                for (int g = 0; g < GROUPS; g++) store(to + (o + n) * IN + first + g * LANES, tile.sum[n][g]);
        }
    }
}

// The gradient before tanh of one row of a convolution, from that after pooling: 0.25 (1 - a^2) g; and its sums for the bias.
template <int SIDE_OUT, int CHANNELS, int CHANNEL_STEP, int PIXEL_STEP>
__attribute__((noinline)) void unpool_row(const float* activations, const float* pooled_gradient, float* to, vec* sums) {
    for (int c = 0; c < CHANNELS; c++) {
        vec sum = sums[c];
        for (int x = 0; x < SIDE_OUT; x++) {
            int at = (x * CHANNELS + c) * LANES;
            vec g = 0.25f * load(pooled_gradient + (x / 2 * PIXEL_STEP + c * CHANNEL_STEP) * LANES) * slope(load(activations + at));
            store(to + at, g);
            sum += g;
        }
        sums[c] = sum;
    }
}

// Weight gradients of a convolution for ROWS rows of its output: A outputs by B inputs, where an input is a channel or, for
// one channel, a column. The loads stand apart from the multiply-adds, and the function by itself: folded into them, each
// would be loaded several times over.
template <int A, int B, int ROWS, int PIXELS, int G_STEP, int X_STEP, int X_ROW>
__attribute__((noinline)) void rows_weights(const float* g, const float* x, vec* sums) {
    vec sum[A][B];
#pragma GCC unroll 8
    for (int a = 0; a < A; a++)
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) sum[a][b] = sums[a * B + b];
    for (int row = 0; row < ROWS; row++, x += (X_ROW - PIXELS * X_STEP) * LANES)
        for (int pixel = 0; pixel < PIXELS; pixel++, g += G_STEP * LANES, x += X_STEP * LANES) {
            // The compiler would keep columns for the next pixel, in registers that it does not have.
            asm("" : "+r"(x));
            vec value[B];
#pragma GCC unroll 8
            for (int b = 0; b < B; b++) {
                value[b] = load(x + b * LANES);
                KEEP(value[b]);
            }
#pragma GCC unroll 8
            for (int a = 0; a < A; a++) {
                vec gradient = load(g + a * LANES);
                KEEP(gradient);
#pragma GCC unroll 8
                for (int b = 0; b < B; b++) sum[a][b] += gradient * value[b];
            }
        }
#pragma GCC unroll 8
    for (int a = 0; a < A; a++)
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) sums[a * B + b] = sum[a][b];
}

// The gradient at conv2's input, of a block. Only the outputs that an input reaches are visited; there is no padding.
__attribute__((noinline)) void conv2_input(const float* gradient, const float* weights, float* to) {
    for (int y = 0; y < POOL1; y++)
        for (int x = 0; x < POOL1; x++) {
            int first = x < K ? 0 : x - K + 1, last = x < SIDE2 ? x : SIDE2 - 1;
            Tile<C1> tile;
            tile.clear();
            for (int ky = y < SIDE2 ? 0 : y - SIDE2 + 1; ky < K && ky <= y; ky++)
                for (int at = first; at <= last; at++)
                    tile.add<K * K, C1 * K * K>(
                        gradient + ((y - ky) * SIDE2 + at) * C2 * LANES, NEXT_SCRATCH, weights + ky * K + x - at, C2);
            tile.put(to + (y * POOL1 + x) * C1 * LANES, NEXT_SCRATCH);
        }
}

// Sums of the convolutions' gradients over a batch, in the order of the tiles that make them.
constexpr int A1 = REGISTERS > 16 ? 3 : 2, B1 = 5, A2 = REGISTERS > 16 ? 8 : 4, B2 = 3;
struct Sums {
    vec w1[K][C1 / A1][A1 * B1];              // [ky][oc / A1][oc % A1, kx]
    vec w2[K][K][C2 / A2][C1 / B2][A2 * B2];  // [ky][kx][oc / A2][ic / B2][oc % A2, ic % B2]
    vec b1[C1], b2[C2];
};

void conv2_gradient(const Group& group, Scratch& scratch, Sums& sums) {
    constexpr int ROW = SIDE2 * C2 * LANES;
    for (int y = 0; y < SIDE2; y++)
        unpool_row<SIDE2, C2, POOL2 * POOL2, 1>(
            group.a2 + y * ROW, scratch.dp2 + y / 2 * POOL2 * LANES, scratch.g2 + y * ROW, sums.b2);
}

// Row by row of a kernel, whose sums stay in the first cache.
void conv2_weights(const Group& group, const Scratch& scratch, Sums& sums) {
    for (int ky = 0; ky < K; ky++)
        for (int y = 0; y < SIDE2; y += 2)
            for (int kx = 0; kx < K; kx++)
                for (int o = 0; o < C2 / A2; o++)
                    for (int i = 0; i < C1 / B2; i++)
                        rows_weights<A2, B2, 2, SIDE2, C2, C1, POOL1 * C1>(scratch.g2 + (y * SIDE2 * C2 + o * A2) * LANES,
                            group.p1 + (((y + ky) * POOL1 + kx) * C1 + i * B2) * LANES, sums.w2[ky][kx][o][i]);
}

// One row of conv1, whose gradient is needed for one row at a time only.
void conv1_gradient(const Group& group, int y, Scratch& scratch, Sums& sums) {
    unpool_row<SIDE1, C1, 1, C1>(
        group.a1 + y * SIDE1 * C1 * LANES, scratch.dp1 + y / 2 * POOL1 * C1 * LANES, scratch.g1, sums.b1);
}

void conv1_weights(const Group& group, int y, const Scratch& scratch, Sums& sums) {
    for (int ky = 0; ky < K; ky++)
        for (int o = 0; o < C1 / A1; o++)
            rows_weights<A1, B1, 1, SIDE1, C1, 1, 0>(
                scratch.g1 + o * A1 * LANES, group.x + (y + ky) * SIDE * LANES, sums.w1[ky][o]);
}

// The backward pass of one block, from the gradient at its logits, g5 in `dense`. `first` is the block's first sample.
void backward_block(const Group* block, int first, const Parameters& from, Dense* dense, Sums* sums) {
    alignas(4 * LANES) static thread_local Scratch scratch[GROUPS];
    dense_inputs(block, from, dense, scratch);
    for (int g = GROUPS - 1; g >= 0; g--) {
        transpose(block[g], dense[g]);
        Sums& own = sums[(first / LANES + g) % PARTS];
        conv2_gradient(block[g], scratch[g], own);
        conv2_weights(block[g], scratch[g], own);
    }
    conv2_input(scratch->g2, from.w2, scratch->dp1);
    for (int g = GROUPS - 1; g >= 0; g--)
        for (int y = 0; y < SIDE1; y++) {
            Sums& own = sums[(first / LANES + g) % PARTS];
            conv1_gradient(block[g], y, scratch[g], own);
            conv1_weights(block[g], y, scratch[g], own);
        }
}

// The sum of the SUMS numbers in a vector of each part: each half onto the other, so that roundings are few.
template <typename Place>
inline float total(const Sums* parts, const Place& place) {
    float sums[SUMS];
    for (int part = 0; part < PARTS; part++) store(sums + part * LANES, place(parts[part]));
    for (int width = SUMS / 2; width > 0; width /= 2)
        for (int at = 0; at < width; at++) sums[at] += sums[at + width];
    return sums[0];
}

// Gradients of the convolutions' weights and biases.
void reduce(const Sums* parts, const Gradients& to) {
    for (int o = 0; o < C1; o++) {
        for (int k = 0; k < K * K; k++)
            to.w1[o * K * K + k] = total(parts, [&](const Sums& of) { return of.w1[k / K][o / A1][o % A1 * B1 + k % K]; });
        to.b1[o] = total(parts, [&](const Sums& of) { return of.b1[o]; });
    }
    for (int o = 0; o < C2; o++) {
        for (int i = 0; i < C1; i++)
            for (int k = 0; k < K * K; k++)
                to.w2[(o * C1 + i) * K * K + k] = total(
                    parts, [&](const Sums& of) { return of.w2[k / K][k % K][o / A2][i / B2][o % A2 * B2 + i % B2]; });
        to.b2[o] = total(parts, [&](const Sums& of) { return of.b2[o]; });
    }
}

template <int OUT>
void dense_bias(const Dense* groups, int samples, const float (Dense::*gradient)[OUT * LANES], float* to) {
    for (int o = 0; o < OUT; o++) {
        float sum = 0;
        for (int s = 0; s < samples; s++) sum += (groups[s / LANES].*gradient)[o * LANES + s % LANES];
        to[o] = sum;
    }
}

// Gradients of the dense layers' weights and biases over all samples.
void dense_gradients(const Dense* groups, int samples, const Gradients& to) {
    dense_weights<N3, FLAT, H1>(groups, samples, &Dense::g3, &Dense::p2, to.w3);
    dense_weights<N4, H1, H2>(groups, samples, &Dense::g4, &Dense::h1, to.w4);
    dense_weights<N5, H2, CLASSES>(groups, samples, &Dense::g5, &Dense::h2, to.w5);
    dense_bias<H1>(groups, samples, &Dense::g3, to.b3);
    dense_bias<H2>(groups, samples, &Dense::g4, to.b4);
    dense_bias<CLASSES>(groups, samples, &Dense::g5, to.b5);
}

// Logits, [CLASSES] of each group of the block that begins with sample `first`.
template <typename Pixel>
void forward_block(const Images<Pixel>& images, int first, const Parameters& from, Group* block, float* logits) {
    for (int g = 0; g < GROUPS; g++) load_group(images, first + g * LANES, block[g].x);
    conv1(block, from);
    conv2(block, from);
    dense_layers(block, from, logits);
}

template <typename Pixel>
void forward(const Images<Pixel>& images, const Parameters& from, Group* tape, bool keep, float* logits) {
    for (int first = 0; first < images.samples; first += BLOCK) {
        alignas(4 * LANES) float output[GROUPS][CLASSES * LANES];
        forward_block(images, first, from, tape + (keep ? first / LANES : 0), output[0]);
        for (int s = 0; s < BLOCK && first + s < images.samples; s++)
            for (int c = 0; c < CLASSES; c++) logits[(first + s) * CLASSES + c] = output[s / LANES][c * LANES + s % LANES];
    }
}

// The cross entropy of each sample of a group, and the gradient of it times `scale`, from its logits and the labels.
vec cross_entropy(const float* logits, ivec labels, vec scale, float* gradient) {
    vec largest = load(logits), sum = {}, of_label = {};
    for (int c = 1; c < CLASSES; c++) {
        vec logit = load(logits + c * LANES);
        largest = logit > largest ? logit : largest;
    }
    for (int c = 0; c < CLASSES; c++) {
        vec logit = load(logits + c * LANES);
        vec share = exp_of(logit - largest);
        store(gradient + c * LANES, share);
        sum += share;
        of_label = labels == c ? logit : of_label;
    }
    for (int c = 0; c < CLASSES; c++) {
        vec share = load(gradient + c * LANES) / sum;
        store(gradient + c * LANES, (labels == c ? share - 1.0f : share) * scale);
    }
    vec losses;
    for (int lane = 0; lane < LANES; lane++)
        losses[lane] = static_cast<float>(std::log(double{sum[lane]}) + largest[lane] - of_label[lane]);
    return losses;
}

// The mean cross entropy of a batch, and its gradients. `block` has room for one.
template <typename Pixel>
float loss(const Images<Pixel>& images, const int64_t* labels, const Parameters& from, Dense* dense, Group* block,
           const Gradients& to) {
    alignas(4 * LANES) static thread_local Sums sums[PARTS];
    std::memset(sums, 0, sizeof sums);
    double mean = 0;
    for (int first = (images.samples - 1) / BLOCK * BLOCK; first >= 0; first -= BLOCK) {
        alignas(4 * LANES) float output[GROUPS][CLASSES * LANES];
        forward_block(images, first, from, block, output[0]);
        for (int g = GROUPS - 1; g >= 0; g--) {
            ivec own = {};
            vec scale = {};
            int at = first + g * LANES;
            for (int lane = 0; lane < LANES && at + lane < images.samples; lane++) {
                own[lane] = labels[at + lane];
                scale[lane] = 1.0f / images.samples;
            }
            vec losses = cross_entropy(output[g], own, scale, dense[at / LANES].g5);
            for (int lane = LANES - 1; lane >= 0; lane--)
                if (at + lane < images.samples) mean += double{losses[lane]} / images.samples;
        }
        backward_block(block, first, from, dense + first / LANES, sums);
    }
    reduce(sums, to);
    dense_gradients(dense, images.samples, to);
    return static_cast<float>(mean);
}

int64_t groups_of(int samples) { return (samples + BLOCK - 1) / BLOCK * GROUPS; }

}  // namespace

extern "C" {

// Bytes of memory for that many samples: without a backward pass for one block, with one for what it needs of all samples.
int64_t lenet5_forward_bytes() { return sizeof(Group) * GROUPS; }
int64_t lenet5_loss_bytes(int samples) { return sizeof(Dense) * groups_of(samples) + sizeof(Group) * GROUPS; }
int64_t lenet5_tape_bytes(int samples) { return (sizeof(Dense) + sizeof(Group)) * groups_of(samples); }

// Logits [samples][10] of images [samples][32][32], as float32 in [0, 1] or as bytes. With `keep` the memory is a tape, for
// the backward pass.
void lenet5_forward(const void* images, int are_bytes, int samples, const Parameters* parameters, void* memory, int keep,
                    float* logits) {
    char* groups = static_cast<char*>(memory) + (keep ? sizeof(Dense) * groups_of(samples) : 0);
    Group* tape = reinterpret_cast<Group*>(groups);
    if (are_bytes)
        forward(Images<uint8_t>{static_cast<const uint8_t*>(images), samples}, *parameters, tape, keep, logits);
    else
        forward(Images<float>{static_cast<const float*>(images), samples}, *parameters, tape, keep, logits);
}

// Gradients of all parameters from that of the logits, [samples][10], and the tape of the forward pass before it.
void lenet5_backward(const float* gradient, int samples, const Parameters* parameters, void* memory, const Gradients* to) {
    alignas(4 * LANES) static thread_local Sums sums[PARTS];
    std::memset(sums, 0, sizeof sums);
    Dense* dense = static_cast<Dense*>(memory);
    const Group* tape = reinterpret_cast<const Group*>(dense + groups_of(samples));
    for (int first = (samples - 1) / BLOCK * BLOCK; first >= 0; first -= BLOCK) {
        for (int s = first; s < first + BLOCK; s++)
            for (int c = 0; c < CLASSES; c++)
                dense[s / LANES].g5[c * LANES + s % LANES] = s < samples ? gradient[s * CLASSES + c] : 0;
        backward_block(tape + first / LANES, first, *parameters, dense + first / LANES, sums);
    }
    reduce(sums, *to);
    dense_gradients(dense, samples, *to);
}

// The mean cross entropy of images with labels [samples] from 0 to 9, and its gradients.
float lenet5_loss(const void* images, int are_bytes, const int64_t* labels, int samples, const Parameters* parameters,
                  void* memory, const Gradients* to) {
    Dense* dense = static_cast<Dense*>(memory);
    Group* block = reinterpret_cast<Group*>(dense + groups_of(samples));
    if (are_bytes)
        return loss(Images<uint8_t>{static_cast<const uint8_t*>(images), samples}, labels, *parameters, dense, block, *to);
    return loss(Images<float>{static_cast<const float*>(images), samples}, labels, *parameters, dense, block, *to);
}

// The floats in a vector.
int lenet5_lanes() { return LANES; }

// tanh by itself, of whole vectors: what the tests hold to the true one.
void lenet5_tanh(const float* from, int count, float* to) {
    std::memcpy(to, from, count * sizeof(float));
    tanh_in_place(to, count);
}

}  // extern "C"
