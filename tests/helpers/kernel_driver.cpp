// The kernel without Python, to be run under an emulator: from standard input the number of samples, the images, the ten
// parameters and the gradient at the logits; to standard output the logits and the ten gradients. All but the first are
// float32.

#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" {
int64_t lenet5_tape_bytes(int samples);
void lenet5_forward(const void* images, int are_bytes, int samples, const float* const* parameters, void* tape, int keep,
                    float* logits);
void lenet5_backward(const float* gradient, int samples, const float* const* parameters, void* tape, float* const* to);
}

std::vector<float> read(size_t count) {
    std::vector<float> values(count);
    if (std::fread(values.data(), sizeof(float), count, stdin) != count) std::perror("input");
    return values;
}

void write(const std::vector<float>& values) { std::fwrite(values.data(), sizeof(float), values.size(), stdout); }

int main() {
    int32_t samples;
    if (std::fread(&samples, sizeof samples, 1, stdin) != 1) return 1;
    std::vector<float> images = read(samples * 1024), logits(samples * 10);
    std::vector<std::vector<float>> parameters, gradients;
    std::vector<const float*> from;
    std::vector<float*> to;
    for (size_t size : {150, 6, 2400, 16, 48000, 120, 10080, 84, 840, 10}) {
        parameters.push_back(read(size));
        gradients.emplace_back(size);
    }
    for (auto& values : parameters) from.push_back(values.data());
    for (auto& values : gradients) to.push_back(values.data());
    std::vector<float> at_logits = read(samples * 10);
    std::vector<char> tape(lenet5_tape_bytes(samples));
    lenet5_forward(images.data(), 0, samples, from.data(), tape.data(), 1, logits.data());
    lenet5_backward(at_logits.data(), samples, from.data(), tape.data(), to.data());
    write(logits);
    for (auto& values : gradients) write(values);
}
