// Times each stage of the kernel for one batch of 128 bytes images: a line of its name, seconds and multiply-adds times two.
// The fastest of many repeats, all stages in turn, as a step runs them.

#include "../reproduce/training/fused/lenet5.cpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <vector>

namespace {

constexpr int SAMPLES = 128, REPEATS = 300;
constexpr double CONV1 = 2.0 * SIDE1 * SIDE1 * C1 * K * K * SAMPLES, CONV2 = 2.0 * SIDE2 * SIDE2 * C2 * C1 * K * K * SAMPLES;
constexpr double DENSE3 = 2.0 * FLAT * H1 * SAMPLES, DENSE4 = 2.0 * H1 * H2 * SAMPLES, DENSE5 = 2.0 * H2 * CLASSES * SAMPLES;

double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Stopwatch {
    std::vector<std::string> names;
    std::map<std::string, double> seconds, best, operations;
    double last = now();

    void start() { last = now(); }

    void lap(const char* name, double count = 0) {
        double time = now();
        if (!operations.count(name)) names.push_back(name);
        seconds[name] += time - last;
        operations[name] = count;
        last = now();
    }

    void end_repeat() {
        for (auto& [name, time] : seconds) {
            best[name] = best.count(name) ? std::min(best[name], time) : time;
            time = 0;
        }
    }
};

}  // namespace

int main() {
    std::vector<uint8_t> images(SAMPLES * SIDE * SIDE);
    for (size_t at = 0; at < images.size(); at++) images[at] = at * 2654435761u >> 24;
    std::vector<std::vector<float>> weights, gradients;
    for (size_t size : {150, 6, 2400, 16, 48000, 120, 10080, 84, 840, 10}) {
        weights.emplace_back(size);
        gradients.emplace_back(size);
        for (size_t at = 0; at < size; at++) weights.back()[at] = (int(at * 40503u % 2001) - 1000) * 1e-4f;
    }
    const auto& w = weights;
    Parameters from{w[0].data(), w[1].data(), w[2].data(), w[3].data(), w[4].data(),
                    w[5].data(), w[6].data(), w[7].data(), w[8].data(), w[9].data()};
    auto& g = gradients;
    Gradients to{g[0].data(), g[1].data(), g[2].data(), g[3].data(), g[4].data(),
                 g[5].data(), g[6].data(), g[7].data(), g[8].data(), g[9].data()};
    int count = blocks_of(SAMPLES);
    std::vector<Block> blocks(count);
    static Packed packed;
    static PackedBackward packed_backward;
    static Sums sums;
    static Scratch scratch;
    static float logits[CLASSES * BLOCK];
    float of_byte[256];
    for (int byte = 0; byte < 256; byte++) of_byte[byte] = byte / 255.0f;
    auto value = [&](uint8_t byte) { return of_byte[byte]; };

    Stopwatch watch;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        watch.start();
        pack(from, packed);
        watch.lap("pack weights");
        for (int b = 0; b < count; b++) {
            Block& block = blocks[b];
            watch.start();
            load_images(images.data() + b * BLOCK * SIDE * SIDE, BLOCK, value, block.x);
            watch.lap("load images");
            convolve_tanh_pool<N1, 1, SIDE, SIDE1, C1>(block.x, &packed.w1, from.b1, block.a1, block.p1);
            watch.lap("conv1, tanh, pool", CONV1);
            convolve_tanh_pool<N2, C1, POOL1, SIDE2, C2>(block.p1, packed.w2, from.b2, block.a2, block.p2);
            watch.lap("conv2, tanh, pool", CONV2);
            dense<N3, FLAT, H1, true>(block.p2, packed.w3, from.b3, block.h1);
            dense<N4, H1, H2, true>(block.h1, packed.w4, from.b4, block.h2);
            dense<N5, H2, CLASSES, false>(block.h2, packed.w5, from.b5, logits);
            watch.lap("dense layers, tanh", DENSE3 + DENSE4 + DENSE5);
        }
        watch.start();
        pack(from, packed_backward);
        watch.lap("pack weights");
        for (int b = 0; b < count; b++) {
            Block& block = blocks[b];
            for (float& value : block.g5) value = 0.01f;
            watch.start();
            dense_inputs(block, packed_backward, scratch);
            watch.lap("dense inputs' gradients", DENSE3 + DENSE4 + DENSE5);
            for (int y = 0; y < SIDE2; y++) {
                conv2_gradient(block, y, scratch, sums);
                watch.lap("unpool, biases");
                conv2_weights(block, y, scratch, sums);
                watch.lap("conv2 weights' gradient", CONV2);
            }
            conv2_input(scratch.g2, packed_backward.w2, scratch.dp1);
            watch.lap("conv2 input's gradient", CONV2);
            for (int y = 0; y < SIDE1; y++) {
                conv1_gradient(block, y, scratch, sums);
                watch.lap("unpool, biases");
                conv1_weights(block, y, scratch, sums);
                watch.lap("conv1 weights' gradient", CONV1);
            }
            transpose(block);
            watch.lap("transpose");
        }
        watch.start();
        dense_gradients(blocks.data(), count, to);
        watch.lap("dense weights' gradients", DENSE3 + DENSE4 + DENSE5);
        reduce(sums, to);
        watch.lap("unpool, biases");
        watch.end_repeat();
    }
    for (const std::string& name : watch.names)
        std::printf("%s\t%.9f\t%.0f\n", name.c_str(), watch.best[name], watch.operations[name]);
}
