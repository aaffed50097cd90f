// LeNet-5's forward and backward pass on one CPU thread, near the machine's matrix rate.
//
// 16 or 32 samples are a block, and the sample is the innermost index everywhere: [row][column][channel][BLOCK]. Two or
// four vectors hold one element of a block, so every operation is the same for all samples, no lane is ever idle in a
// convolution's border, and nearly all work is one loop: a few outputs of a block += broadcast weight * input (`Tile`).
//
// What the forward pass leaves for the backward pass is the tape; the caller owns it. Stages, in order:
//   load      images -> x [32][32][1]
//   conv1     x -> a1 [28][28][6] (after tanh) -> p1 [14][14][6] (pooled)
//   conv2     p1 -> a2 [10][10][16] -> p2 [5][5][16]
//   conv3     p2 -> h1 [120]: on 5x5 it is a dense layer; fc1: -> h2 [84]; fc2: -> logits [10]
// and backward the other way: g5, g4, g3 are the gradients at the inputs of fc2's output, fc1's tanh and conv3's tanh.
//
// Written with the vector extensions that GCC and Clang share. -ffast-math is not wanted: a loss that is not finite must
// stay visible.

#include <cstdint>
#include <cstring>

namespace {

// The processor's vectors: how many floats fit into one, how many of them are a block, and how many there is room for.
#if defined(__AVX512F__)
constexpr int LANES = 16, VECTORS = 2, REGISTERS = 32;
#elif defined(__AVX2__)
constexpr int LANES = 8, VECTORS = 2, REGISTERS = 16;
#else  // 128 bits, as aarch64 has them
constexpr int LANES = 4, VECTORS = 4, REGISTERS = 32;
#endif
constexpr int BLOCK = LANES * VECTORS;  // samples

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES)));

// Has the compiler keep a value in a register, where it would load it again for each use.
#if defined(__x86_64__)
#define KEEP(value) asm("" : "+v"(value))
#elif defined(__aarch64__)
#define KEEP(value) asm("" : "+w"(value))
#else
#define KEEP(value)
#endif

constexpr int SIDE = 32, SIDE1 = 28, POOL1 = 14, SIDE2 = 10, POOL2 = 5, K = 5;
constexpr int C1 = 6, C2 = 16, FLAT = POOL2 * POOL2 * C2, H1 = 120, H2 = 84, CLASSES = 10;
// Outputs of one tile, so that its accumulators, N x VECTORS, leave registers for the inputs and a weight: at most 12 of 16,
// or 24 of 32.
constexpr bool WIDE = REGISTERS / VECTORS >= 16;
constexpr int N1 = 6, N2 = WIDE ? 8 : 4, N3 = WIDE ? 12 : 6, N4 = N3, N5 = WIDE ? 10 : 5, NFLAT = N5;
// A sample's row in the transposed copies, filled up to whole tiles.
constexpr int whole_tiles(int elements) { return (elements + BLOCK - 1) / BLOCK * BLOCK; }
constexpr int ROW_FLAT = whole_tiles(FLAT), ROW_H1 = whole_tiles(H1), ROW_H2 = whole_tiles(H2);

inline vec load(const float* from) {
    vec value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

inline void store(float* to, vec value) { std::memcpy(to, &value, sizeof value); }

inline vec broadcast(float value) { return value - vec{}; }

// N outputs of one block in registers.
template <int N>
struct Tile {
    vec sum[N][VECTORS];

    inline void set(const float* bias) {
#pragma GCC unroll 16
        for (int n = 0; n < N; n++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sum[n][v] = broadcast(bias[n]);
    }

    inline void clear() {
#pragma GCC unroll 16
        for (int n = 0; n < N; n++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sum[n][v] = vec{};
    }

    // += weights[n * STRIDE] * input[BLOCK], for each of the outputs.
    template <int STRIDE>
    inline void add_one(const float* input, const float* weights) {
        vec value[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) value[v] = load(input + v * LANES);
#pragma GCC unroll 16
        for (int n = 0; n < N; n++) {
            vec weight = broadcast(weights[n * STRIDE]);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sum[n][v] += weight * value[v];
        }
    }

    // += sum over k of weights[k][n] * input[k][BLOCK].
    inline void add(const float* input, const float* weights, int count) {
        for (int k = 0; k < count; k++, input += BLOCK, weights += N) add_one<1>(input, weights);
    }

    // Unrolled, as are all loops over a tile: an index that is not a constant would keep the tile in memory.
    inline void put(float* to) const {
#pragma GCC unroll 16
        for (int n = 0; n < N; n++)
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) store(to + n * BLOCK + v * LANES, sum[n][v]);
    }
};

// tanh with an error below 1.5 units in the last place. Below 0.625 an odd polynomial; above it 1 - 2 / (1 + exp(2x)),
// which keeps what is left of 1 - a^2 where the network saturates. Polynomials: least maximum error, fitted for this file.
inline vec tanh_of(vec x) {
    ivec sign = (ivec)x & INT32_MIN;
    ivec bits = (ivec)x & INT32_MAX;
    vec size = (vec)bits;

    vec u = x * x;
    vec small = ((((-5.7049901e-3f * u + 2.0639090e-2f) * u - 5.3739715e-2f) * u + 1.33314416e-1f) * u - 3.33332807e-1f) * u;
    small = small * x + x;

    vec y = size + size;
    y = y > 20.0f ? broadcast(20.0f) : y;  // a NaN is not above 20 and stays
    vec shifted = y * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: its last bits are the nearest whole number
    vec whole = shifted - 12582912.0f;
    vec f = y - whole * 0.693359375f;  // ln 2 in two parts, so that the difference is exact
    f = f + whole * 2.12194440e-4f;
    vec power = (((((1.38141774e-3f * f + 8.36891960e-3f) * f + 4.16684076e-2f) * f + 1.66665196e-1f) * f + 4.99999940e-1f) * f)
            * f + f + 1.0f;
    ivec exponent = ((ivec)shifted << 23);
    ivec scaled = (ivec)power + exponent;
    vec large = 1.0f - 2.0f / (1.0f + (vec)scaled);
    ivec signed_large = (ivec)large | sign;
    return size < 0.625f ? small : (vec)signed_large;
}

inline vec slope(vec tanh) { return 1.0f - tanh * tanh; }

// Where everything of one block lies, in floats.
struct Block {
    float x[SIDE * SIDE * BLOCK];
    float a1[SIDE1 * SIDE1 * C1 * BLOCK], p1[POOL1 * POOL1 * C1 * BLOCK];
    float a2[SIDE2 * SIDE2 * C2 * BLOCK], p2[FLAT * BLOCK];
    float h1[H1 * BLOCK], h2[H2 * BLOCK];
    float g3[H1 * BLOCK], g4[H2 * BLOCK], g5[CLASSES * BLOCK];
    float p2_rows[BLOCK * ROW_FLAT], h1_rows[BLOCK * ROW_H1], h2_rows[BLOCK * ROW_H2];  // [sample][element]
};

struct Parameters {
    const float *w1, *b1, *w2, *b2, *w3, *b3, *w4, *b4, *w5, *b5;
};

struct Gradients {
    float *w1, *b1, *w2, *b2, *w3, *b3, *w4, *b4, *w5, *b5;
};

// Weights in the order in which a tile reads them: [group of N outputs][input][N].
struct Packed {
    float w1[K * K * N1];
    float w2[C2 / N2][K * K * C1 * N2];
    float w3[H1 / N3][FLAT * N3];
    float w4[H2 / N4][H1 * N4];
    float w5[CLASSES / N5][H2 * N5];
};

struct PackedBackward {
    float w2[K * K * C2 * C1];  // columns flipped: [ky][4 - kx][oc][ic]
    float w3[FLAT / NFLAT][H1 * NFLAT];
    float w4[H1 / N3][H2 * N3];
    float w5[H2 / N4][CLASSES * N4];
};

// Element (c, y, x) of conv2's pooled output, as PyTorch counts, to (y, x, c), as it lies here, and back.
inline int torch_index(int flat) { return flat % C2 * POOL2 * POOL2 + flat / C2; }

void pack(const Parameters& from, Packed& to) {
    for (int n = 0; n < C1; n++)
        for (int k = 0; k < K * K; k++) to.w1[k * N1 + n] = from.w1[n * K * K + k];
    for (int o = 0; o < C2; o++)
        for (int i = 0; i < C1; i++)
            for (int k = 0; k < K * K; k++) to.w2[o / N2][(k * C1 + i) * N2 + o % N2] = from.w2[(o * C1 + i) * K * K + k];
    for (int group = 0; group < H1 / N3; group++)
        for (int k = 0; k < FLAT; k++)
            for (int n = 0; n < N3; n++) to.w3[group][k * N3 + n] = from.w3[(group * N3 + n) * FLAT + torch_index(k)];
    for (int o = 0; o < H2; o++)
        for (int k = 0; k < H1; k++) to.w4[o / N4][k * N4 + o % N4] = from.w4[o * H1 + k];
    for (int o = 0; o < CLASSES; o++)
        for (int k = 0; k < H2; k++) to.w5[o / N5][k * N5 + o % N5] = from.w5[o * H2 + k];
}

void pack(const Parameters& from, PackedBackward& to) {
    for (int o = 0; o < C2; o++)
        for (int i = 0; i < C1; i++)
            for (int ky = 0; ky < K; ky++)
                for (int kx = 0; kx < K; kx++)
                    to.w2[((ky * K + K - 1 - kx) * C2 + o) * C1 + i] = from.w2[((o * C1 + i) * K + ky) * K + kx];
    for (int group = 0; group < FLAT / NFLAT; group++)
        for (int o = 0; o < H1; o++)
            for (int n = 0; n < NFLAT; n++)
                to.w3[group][o * NFLAT + n] = from.w3[o * FLAT + torch_index(group * NFLAT + n)];
    for (int k = 0; k < H1; k++)
        for (int o = 0; o < H2; o++) to.w4[k / N3][o * N3 + k % N3] = from.w4[o * H1 + k];
    for (int k = 0; k < H2; k++)
        for (int o = 0; o < CLASSES; o++) to.w5[k / N4][o * N4 + k % N4] = from.w5[o * H2 + k];
}

// The last sample fills up a short block: whatever it is, it brings in nothing that is not there already, as a zero
// would where a weight is infinite. Its copies' gradients are zero.
template <typename Pixel, typename Value>
void load_images(const Pixel* images, int samples, const Value& value, float* x) {
    const Pixel* of[BLOCK];
    for (int s = 0; s < BLOCK; s++) of[s] = images + (s < samples ? s : samples - 1) * SIDE * SIDE;
    for (int pixel = 0; pixel < SIDE * SIDE; pixel++)
        for (int s = 0; s < BLOCK; s++) x[pixel * BLOCK + s] = value(of[s][pixel]);
}

// tanh of all these values. A function by itself: folded into a tile's loop, its constants would take the registers.
__attribute__((noinline)) void tanh_in_place(float* values, int count) {
    for (int at = 0; at < count; at += LANES) store(values + at, tanh_of(load(values + at)));
}

// One row of a convolution's output, [x][CHANNELS_OUT][BLOCK], before tanh.
template <int N, int CHANNELS_IN, int SIDE_IN, int SIDE_OUT, int CHANNELS_OUT>
__attribute__((noinline)) void convolve_row(
    const float* input, const float (*weights)[K * K * CHANNELS_IN * N], const float* bias, float* to) {
    constexpr int RUN = K * CHANNELS_IN;
    for (int group = 0; group < CHANNELS_OUT / N; group++)
        for (int x = 0; x < SIDE_OUT; x++) {
            Tile<N> tile;
            tile.set(bias + group * N);
            for (int ky = 0; ky < K; ky++)
                tile.add(input + (ky * SIDE_IN + x) * CHANNELS_IN * BLOCK, weights[group] + ky * RUN * N, RUN);
            tile.put(to + (x * CHANNELS_OUT + group * N) * BLOCK);
        }
}

// A convolution through tanh, and the means of each 2 x 2 pixels.
template <int N, int CHANNELS_IN, int SIDE_IN, int SIDE_OUT, int CHANNELS_OUT>
void convolve_tanh_pool(const float* input, const float (*weights)[K * K * CHANNELS_IN * N], const float* bias,
                        float* activations, float* pooled) {
    constexpr int PIXEL = CHANNELS_OUT * BLOCK, ROW = SIDE_OUT * PIXEL;
    for (int y = 0; y < SIDE_OUT; y++, activations += ROW) {
        convolve_row<N, CHANNELS_IN, SIDE_IN, SIDE_OUT, CHANNELS_OUT>(
            input + y * SIDE_IN * CHANNELS_IN * BLOCK, weights, bias, activations);
        tanh_in_place(activations, ROW);
        if (y % 2 == 0) continue;
        for (int x = 0; x < SIDE_OUT; x += 2, pooled += PIXEL)
            for (int at = 0; at < PIXEL; at += LANES) {
                const float* from = activations - ROW + x * PIXEL + at;
                store(pooled + at, 0.25f * (load(from) + load(from + PIXEL) + load(from + ROW) + load(from + ROW + PIXEL)));
            }
    }
}

// OUT outputs of a dense layer, through tanh or not.
template <int N, int IN, int OUT, bool TANH>
__attribute__((noinline)) void dense(const float* input, const float (*weights)[IN * N], const float* bias, float* output) {
    for (int group = 0; group < OUT / N; group++) {
        Tile<N> tile;
        tile.set(bias + group * N);
        tile.add(input, weights[group], IN);
        tile.put(output + group * N * BLOCK);
    }
    if (TANH) tanh_in_place(output, OUT * BLOCK);
}

// The gradient at a dense layer's input; through the tanh before it, whose values are `tanh`, unless that is null.
template <int N, int IN, int OUT>
__attribute__((noinline)) void dense_backward(
    const float* gradient, const float (*weights)[OUT * N], const float* tanh, float* to) {
    for (int group = 0; group < IN / N; group++) {
        Tile<N> tile;
        tile.clear();
        tile.add(gradient, weights[group], OUT);
        int first = group * N * BLOCK;
        tile.put(to + first);
        for (int at = first; tanh && at < first + N * BLOCK; at += LANES) store(to + at, load(to + at) * slope(load(tanh + at)));
    }
}

void to_rows(const float* from, int elements, int row, float* to) {
    for (int s = 0; s < BLOCK; s++) {
        for (int e = 0; e < elements; e++) to[s * row + e] = from[e * BLOCK + s];
        for (int e = elements; e < row; e++) to[s * row + e] = 0;
    }
}

// Weight gradients of a dense layer over all blocks: gradient [out][BLOCK] times rows [BLOCK][in].
template <int N, int IN, int ROW, int OUT>
__attribute__((noinline)) void dense_weights(
    const Block* blocks, int count, const float* (*gradient)(const Block&), const float* (*rows)(const Block&), float* to) {
    for (int i = 0; i < ROW; i += BLOCK)
        for (int o = 0; o < OUT; o += N) {
            Tile<N> tile;
            tile.clear();
            for (int b = 0; b < count; b++) {
                // A weight's place is taken by the gradient of output n, a block further on for each n.
                const float* g = gradient(blocks[b]) + o * BLOCK;
                const float* row = rows(blocks[b]) + i;
                for (int s = 0; s < BLOCK; s++, row += ROW) tile.template add_one<BLOCK>(row, g + s);
            }
            alignas(4 * LANES) float sums[N * BLOCK];
            tile.put(sums);
            for (int n = 0; n < N; n++)
                for (int lane = 0; lane < BLOCK && i + lane < IN; lane++) to[(o + n) * IN + i + lane] = sums[n * BLOCK + lane];
        }
}

// The gradient before tanh of one row of a convolution, from that after pooling: 0.25 (1 - a^2) g.
template <int SIDE_OUT, int CHANNELS>
inline void unpool_row(const float* activations, const float* pooled_gradient, int y, float* to) {
    for (int x = 0; x < SIDE_OUT; x++) {
        const float* a = activations + (y * SIDE_OUT + x) * CHANNELS * BLOCK;
        const float* g = pooled_gradient + ((y / 2) * (SIDE_OUT / 2) + x / 2) * CHANNELS * BLOCK;
        for (int at = 0; at < CHANNELS * BLOCK; at += LANES)
            store(to + x * CHANNELS * BLOCK + at, 0.25f * load(g + at) * slope(load(a + at)));
    }
}

// Weight gradients of a convolution for one row of its output: A outputs by B inputs, where an input is a channel or, for
// one channel, a column. Lanes are summed at the very end. The loads stand apart from the multiply-adds, and the function
// by itself: folded into them, each would be loaded several times over.
template <int A, int B, int G_STEP, int X_STEP>
__attribute__((noinline)) void row_weights(const float* g, const float* x, int pixels, vec* sums) {
    vec sum[A][B];
#pragma GCC unroll 8
    for (int a = 0; a < A; a++)
#pragma GCC unroll 8
        for (int b = 0; b < B; b++) sum[a][b] = sums[a * B + b];
    for (int pixel = 0; pixel < pixels; pixel++, g += G_STEP * BLOCK, x += X_STEP * BLOCK)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            vec value[B];
#pragma GCC unroll 8
            for (int b = 0; b < B; b++) {
                value[b] = load(x + b * BLOCK + v * LANES);
                KEEP(value[b]);
            }
#pragma GCC unroll 8
            for (int a = 0; a < A; a++) {
                vec gradient = load(g + a * BLOCK + v * LANES);
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

// One element of a block, added up over its vectors.
inline vec block_sum(const float* from) {
    vec sum = load(from);
    for (int v = 1; v < VECTORS; v++) sum += load(from + v * LANES);
    return sum;
}

template <int CHANNELS>
inline void row_bias(const float* g, int pixels, vec* sums) {
    for (int pixel = 0; pixel < pixels; pixel++)
        for (int c = 0; c < CHANNELS; c++, g += BLOCK) sums[c] += block_sum(g);
}

// The gradient at conv2's input. Only the outputs that an input reaches are visited; there is no padding.
__attribute__((noinline)) void conv2_input(const float* gradient, const float* weights, float* to) {
    for (int y = 0; y < POOL1; y++)
        for (int x = 0; x < POOL1; x++) {
            int first = x < K ? 0 : x - K + 1, last = x < SIDE2 ? x : SIDE2 - 1;
            Tile<C1> tile;
            tile.clear();
            for (int ky = y < SIDE2 ? 0 : y - SIDE2 + 1; ky < K && ky <= y; ky++)
                tile.add(gradient + ((y - ky) * SIDE2 + first) * C2 * BLOCK,
                         weights + (ky * K + K - 1 - x + first) * C2 * C1, (last - first + 1) * C2);
            tile.put(to + (y * POOL1 + x) * C1 * BLOCK);
        }
}

// The sum of a vector's lanes: each half onto the other, so that roundings are few.
inline float total(vec value) {
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int lane = 0; lane < width; lane++) value[lane] += value[lane + width];
    return value[0];
}

// Lane-wise sums of the convolutions' gradients over a batch, in the order of the tiles that make them.
constexpr int A1 = REGISTERS > 16 ? 3 : 2, B1 = 5, A2 = REGISTERS > 16 ? 8 : 4, B2 = 3;
struct Sums {
    vec w1[K][C1 / A1][A1 * B1];              // [ky][oc / A1][oc % A1, kx]
    vec w2[K][K][C2 / A2][C1 / B2][A2 * B2];  // [ky][kx][oc / A2][ic / B2][oc % A2, ic % B2]
    vec b1[C1], b2[C2];
};

// What the backward pass of one block makes on its way: the gradients at the inputs of conv3, of conv2, and before each tanh.
struct Scratch {
    alignas(4 * LANES) float dp2[FLAT * BLOCK], g2[SIDE2 * SIDE2 * C2 * BLOCK], dp1[POOL1 * POOL1 * C1 * BLOCK];
    alignas(4 * LANES) float g1[SIDE1 * C1 * BLOCK];
};

void dense_inputs(Block& block, const PackedBackward& weights, Scratch& scratch) {
    dense_backward<N4, H2, CLASSES>(block.g5, weights.w5, block.h2, block.g4);
    dense_backward<N3, H1, H2>(block.g4, weights.w4, block.h1, block.g3);
    dense_backward<NFLAT, FLAT, H1>(block.g3, weights.w3, nullptr, scratch.dp2);
}

// The gradient of row y of conv2's output before tanh, and its share in that of the bias.
void conv2_gradient(const Block& block, int y, Scratch& scratch, Sums& sums) {
    float* row = scratch.g2 + y * SIDE2 * C2 * BLOCK;
    unpool_row<SIDE2, C2>(block.a2, scratch.dp2, y, row);
    row_bias<C2>(row, SIDE2, sums.b2);
}

void conv2_weights(const Block& block, int y, const Scratch& scratch, Sums& sums) {
    const float* row = scratch.g2 + y * SIDE2 * C2 * BLOCK;
    for (int ky = 0; ky < K; ky++)
        for (int kx = 0; kx < K; kx++)
            for (int o = 0; o < C2 / A2; o++)
                for (int i = 0; i < C1 / B2; i++)
                    row_weights<A2, B2, C2, C1>(row + o * A2 * BLOCK,
                        block.p1 + (((y + ky) * POOL1 + kx) * C1 + i * B2) * BLOCK, SIDE2, sums.w2[ky][kx][o][i]);
}

// The same of conv1. Its gradient is needed for one row at a time only.
void conv1_gradient(const Block& block, int y, Scratch& scratch, Sums& sums) {
    unpool_row<SIDE1, C1>(block.a1, scratch.dp1, y, scratch.g1);
    row_bias<C1>(scratch.g1, SIDE1, sums.b1);
}

void conv1_weights(const Block& block, int y, const Scratch& scratch, Sums& sums) {
    for (int ky = 0; ky < K; ky++)
        for (int o = 0; o < C1 / A1; o++)
            row_weights<A1, B1, C1, 1>(
                scratch.g1 + o * A1 * BLOCK, block.x + (y + ky) * SIDE * BLOCK, SIDE1, sums.w1[ky][o]);
}

void transpose(Block& block) {
    to_rows(block.p2, FLAT, ROW_FLAT, block.p2_rows);
    to_rows(block.h1, H1, ROW_H1, block.h1_rows);
    to_rows(block.h2, H2, ROW_H2, block.h2_rows);
}

void backward_block(Block& block, const PackedBackward& weights, Sums& sums) {
    Scratch scratch;
    dense_inputs(block, weights, scratch);
    for (int y = 0; y < SIDE2; y++) {
        conv2_gradient(block, y, scratch, sums);
        conv2_weights(block, y, scratch, sums);
    }
    conv2_input(scratch.g2, weights.w2, scratch.dp1);
    for (int y = 0; y < SIDE1; y++) {
        conv1_gradient(block, y, scratch, sums);
        conv1_weights(block, y, scratch, sums);
    }
    transpose(block);
}

void reduce(const Sums& sums, const Gradients& to) {
    for (int ky = 0; ky < K; ky++)
        for (int kx = 0; kx < K; kx++) {
            for (int o = 0; o < C1; o++)
                to.w1[(o * K + ky) * K + kx] = total(sums.w1[ky][o / A1][o % A1 * B1 + kx]);
            for (int o = 0; o < C2; o++)
                for (int i = 0; i < C1; i++)
                    to.w2[((o * C1 + i) * K + ky) * K + kx] = total(sums.w2[ky][kx][o / A2][i / B2][o % A2 * B2 + i % B2]);
        }
    for (int o = 0; o < C1; o++) to.b1[o] = total(sums.b1[o]);
    for (int o = 0; o < C2; o++) to.b2[o] = total(sums.b2[o]);
}

void bias(const Block* blocks, int count, const float* (*gradient)(const Block&), int outputs, float* to) {
    for (int o = 0; o < outputs; o++) {
        vec sum = {};
        for (int b = 0; b < count; b++) {
            const float* g = gradient(blocks[b]) + o * BLOCK;
            sum += block_sum(g);
        }
        to[o] = total(sum);
    }
}

// Gradients of the dense layers' weights and biases over all blocks.
void dense_gradients(const Block* blocks, int count, const Gradients& to) {
    static thread_local float w3[H1 * FLAT];
    auto g3 = [](const Block& block) -> const float* { return block.g3; };
    auto g4 = [](const Block& block) -> const float* { return block.g4; };
    auto g5 = [](const Block& block) -> const float* { return block.g5; };
    dense_weights<N3, FLAT, ROW_FLAT, H1>(blocks, count, g3, [](const Block& block) -> const float* { return block.p2_rows; }, w3);
    for (int o = 0; o < H1; o++)
        for (int k = 0; k < FLAT; k++) to.w3[o * FLAT + torch_index(k)] = w3[o * FLAT + k];
    dense_weights<N4, H1, ROW_H1, H2>(
        blocks, count, g4, [](const Block& block) -> const float* { return block.h1_rows; }, to.w4);
    dense_weights<N5, H2, ROW_H2, CLASSES>(
        blocks, count, g5, [](const Block& block) -> const float* { return block.h2_rows; }, to.w5);
    bias(blocks, count, g3, H1, to.b3);
    bias(blocks, count, g4, H2, to.b4);
    bias(blocks, count, g5, CLASSES, to.b5);
}

int blocks_of(int samples) { return (samples + BLOCK - 1) / BLOCK; }

// `value` makes a float of a pixel.
template <typename Pixel, typename Value>
void forward(const Pixel* images, const Value& value, int samples, const Parameters& parameters, Block* tape, bool keep,
             float* logits) {
    alignas(4 * LANES) Packed weights;
    pack(parameters, weights);
    for (int first = 0; first < samples; first += BLOCK) {
        Block& block = tape[keep ? first / BLOCK : 0];
        int here = samples - first < BLOCK ? samples - first : BLOCK;
        load_images(images + first * SIDE * SIDE, here, value, block.x);
        convolve_tanh_pool<N1, 1, SIDE, SIDE1, C1>(block.x, &weights.w1, parameters.b1, block.a1, block.p1);
        convolve_tanh_pool<N2, C1, POOL1, SIDE2, C2>(block.p1, weights.w2, parameters.b2, block.a2, block.p2);
        dense<N3, FLAT, H1, true>(block.p2, weights.w3, parameters.b3, block.h1);
        dense<N4, H1, H2, true>(block.h1, weights.w4, parameters.b4, block.h2);
        alignas(4 * LANES) float output[CLASSES * BLOCK];
        dense<N5, H2, CLASSES, false>(block.h2, weights.w5, parameters.b5, output);
        for (int s = 0; s < here; s++)
            for (int c = 0; c < CLASSES; c++) logits[(first + s) * CLASSES + c] = output[c * BLOCK + s];
    }
}

}  // namespace

extern "C" {

// Bytes of tape for that many samples.
int64_t lenet5_tape_bytes(int samples) { return static_cast<int64_t>(sizeof(Block)) * blocks_of(samples); }

// Logits [samples][10] of images [samples][32][32], as float32 in [0, 1] or as bytes. The tape has room for all samples if
// it is to be kept for the backward pass, else for one block.
void lenet5_forward(const void* images, int are_bytes, int samples, const Parameters* parameters, void* tape, int keep,
                    float* logits) {
    Block* blocks = static_cast<Block*>(tape);
    if (are_bytes) {
        // A division for each pixel would take longer than the look into a table.
        float of_byte[256];
        for (int byte = 0; byte < 256; byte++) of_byte[byte] = byte / 255.0f;
        auto value = [&](uint8_t byte) { return of_byte[byte]; };
        forward(static_cast<const uint8_t*>(images), value, samples, *parameters, blocks, keep, logits);
    } else {
        auto value = [](float pixel) { return pixel; };
        forward(static_cast<const float*>(images), value, samples, *parameters, blocks, keep, logits);
    }
}

// Gradients of all parameters from that of the logits, [samples][10], and the tape of the forward pass before it.
void lenet5_backward(const float* gradient, int samples, const Parameters* parameters, void* tape, const Gradients* to) {
    Block* blocks = static_cast<Block*>(tape);
    int count = blocks_of(samples);
    alignas(4 * LANES) static thread_local PackedBackward weights;
    alignas(4 * LANES) Sums sums = {};
    pack(*parameters, weights);
    for (int b = 0; b < count; b++) {
        Block& block = blocks[b];
        for (int c = 0; c < CLASSES; c++)
            for (int s = 0; s < BLOCK; s++) {
                int sample = b * BLOCK + s;
                block.g5[c * BLOCK + s] = sample < samples ? gradient[sample * CLASSES + c] : 0;
            }
        backward_block(block, weights, sums);
    }
    reduce(sums, *to);
    dense_gradients(blocks, count, *to);
}

// The floats in a vector, on which the order of sums depends.
int lenet5_lanes() { return LANES; }

// tanh by itself, of whole vectors: what the tests hold to the true one.
void lenet5_tanh(const float* from, int count, float* to) {
    std::memcpy(to, from, count * sizeof(float));
    tanh_in_place(to, count);
}

}  // extern "C"
