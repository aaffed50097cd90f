// The kernel without Python, to be run under an emulator: from standard input the number of samples, whether their pixels
// are bytes, the images, the ten parameters and the gradient at the logits; to standard output the logits and the ten
// gradients. All that is no count and no byte is float32.

#include <cstdint>
#include <cstdio>
#include <vector>

extern "C" {
int64_t lenet5_tape_bytes(int samples);
void lenet5_forward(const void* images, int are_bytes, int samples, const float* const* parameters, void* tape, int keep,
                    float* logits);
void lenet5_backward(const float* gradient, int samples, const float* const* parameters, void* tape, float* const* to);
}

template <typename Value>
std::vector<Value> read(size_t count) {
    std::vector<Value> values(count);
    if (std::fread(values.data(), sizeof(Value), count, stdin) != count) std::perror("input");
    return values;
}

void write(const std::vector<float>& values) { std::fwrite(values.data(), sizeof(float), values.size(), stdout); }

int main() {
    std::vector<int32_t> counts = read<int32_t>(2);
    int samples = counts[0], are_bytes = counts[1];
    std::vector<char> images = read<char>(samples * 1024 * (are_bytes ? 1 : sizeof(float)));
    std::vector<float> logits(samples * 10);
    std::vector<std::vector<float>> parameters, gradients;
    std::vector<const float*> from;
    std::vector<float*> to;
    for (size_t size : {150, 6, 2400, 16, 48000, 120, 10080, 84, 840, 10}) {
        parameters.push_back(read<float>(size));
        gradients.emplace_back(size);
    }
    for (auto& values : parameters) from.push_back(values.data());
    for (auto& values : gradients) to.push_back(values.data());
    std::vector<float> at_logits = read<float>(samples * 10);
    std::vector<char> tape(lenet5_tape_bytes(samples));
    lenet5_forward(images.data(), are_bytes, samples, from.data(), tape.data(), 1, logits.data());
    lenet5_backward(at_logits.data(), samples, from.data(), tape.data(), to.data());
    write(logits);
    for (auto& values : gradients) write(values);
}
