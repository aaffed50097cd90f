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
    std::vector<Dense> dense(groups_of(SAMPLES));
    std::vector<Group> block(GROUPS);
    static Scratch scratch[GROUPS];
    static Sums sums[PARTS];
    alignas(4 * LANES) static float logits[GROUPS][CLASSES * LANES];
    Images<uint8_t> batch{images.data(), SAMPLES};

    Stopwatch watch;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        for (int first = SAMPLES - BLOCK; first >= 0; first -= BLOCK) {
            Dense* own = dense.data() + first / LANES;
            watch.start();
            for (int g = 0; g < GROUPS; g++) load_group(batch, first + g * LANES, block[g].x);
            watch.lap("load images");
            conv1(block.data(), from);
            watch.lap("conv1, tanh, pool", CONV1);
            conv2(block.data(), from);
            watch.lap("conv2, tanh, pool", CONV2);
            dense_layers(block.data(), from, logits[0]);
            watch.lap("dense layers, tanh", DENSE3 + DENSE4 + DENSE5);
            for (int g = 0; g < GROUPS; g++) cross_entropy(logits[g], ivec{}, broadcast(1.0f / SAMPLES), own[g].g5);
            watch.lap("cross entropy");
            dense_inputs(block.data(), from, own, scratch);
            watch.lap("dense inputs' gradients", DENSE3 + DENSE4 + DENSE5);
            for (int g = GROUPS - 1; g >= 0; g--) {
                transpose(block[g], own[g]);
                watch.lap("transpose");
                conv2_gradient(block[g], scratch[g], sums[g % PARTS]);
                watch.lap("unpool, biases");
                conv2_weights(block[g], scratch[g], sums[g % PARTS]);
                watch.lap("conv2 weights' gradient", CONV2);
            }
            conv2_input(scratch->g2, from.w2, scratch->dp1);
            watch.lap("conv2 input's gradient", CONV2);
            for (int g = GROUPS - 1; g >= 0; g--)
                for (int y = 0; y < SIDE1; y++) {
                    conv1_gradient(block[g], y, scratch[g], sums[g % PARTS]);
                    watch.lap("unpool, biases");
                    conv1_weights(block[g], y, scratch[g], sums[g % PARTS]);
                    watch.lap("conv1 weights' gradient", CONV1);
                }
        }
        watch.start();
        dense_gradients(dense.data(), SAMPLES, to);
        watch.lap("dense weights' gradients", DENSE3 + DENSE4 + DENSE5);
        reduce(sums, to);
        watch.lap("sums of the convolutions' gradients");
        watch.end_repeat();
    }
    for (const std::string& name : watch.names)
        std::printf("%s\t%.9f\t%.0f\n", name.c_str(), watch.best[name], watch.operations[name]);
}
