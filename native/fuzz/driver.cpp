// Runs the fuzz target without libFuzzer: random mutations of the given files, or of a few built-in texts, for a given time. It knows
// nothing of coverage, but finds what any compiler's sanitizers can see. The seed is printed, and the input before it runs is kept
// in crash-input, so that a failure can be replayed: ./hanlin_fuzz --seconds 0 crash-input
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using Input = std::string;

const std::vector<std::string> kSnippets = {
    "你好", "好好", "\xE4", "\xBD\xA0", "\xF0\x9F\x98\x80", "\xF0\x9F", "\xC3\xA9", "\xED\xA0\x80", "\xC0\x80", "\xFF", " ", "  ", "\n", "\r\n", "\t",
    "'s", "'LL", "'", "aaaa", "abab", "Ab", "12", "！", "。\n", "　", "\xC2\xA0", "\xC2\x85", std::string(1, '\0'), "<|im_end|>"};

Input mutate(Input input, std::mt19937_64& random, const std::vector<Input>& pool) {
  const auto below = [&](std::size_t bound) { return static_cast<std::size_t>(random() % bound); };
  for (std::size_t change = 1 + below(8); change > 0; --change) {
    const std::size_t at = below(input.size() + 1);
    switch (below(6)) {
      case 0: input.insert(at, kSnippets[below(kSnippets.size())]); break;
      case 1: input.insert(at, 1, static_cast<char>(random())); break;
      case 2: input.erase(at, 1 + below(8)); break;
      case 3: if (at < input.size()) input[at] = static_cast<char>(input[at] ^ (1 << below(8))); break;
      case 4: input.insert(at, input.substr(below(input.size() + 1), below(40))); break;
      default: {
        const Input& other = pool[below(pool.size())];
        input.insert(at, other.substr(below(other.size() + 1), below(60)));
      }
    }
  }
  if (input.size() > 600) input.resize(600);
  if (!input.empty()) input[0] = static_cast<char>(random());  // the options: mutation alone would hardly ever change them
  return input;
}

void run(const Input& input) { LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size()); }

}  // namespace

int main(int argc, char** argv) {
  double seconds = 60;
  std::uint64_t seed = std::random_device{}();
  std::vector<Input> pool;
  for (int index = 1; index < argc; ++index) {
    if (std::strcmp(argv[index], "--seconds") == 0 && index + 1 < argc) {
      seconds = std::stod(argv[++index]);
    } else if (std::strcmp(argv[index], "--seed") == 0 && index + 1 < argc) {
      seed = std::stoull(argv[++index]);
    } else {
      std::ifstream file(argv[index], std::ios::binary);
      if (!file) {
        std::fprintf(stderr, "cannot read %s\n", argv[index]);
        return 2;
      }
      pool.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
      run(pool.back());
    }
  }
  if (pool.empty()) {
    for (const std::string& snippet : kSnippets) pool.push_back("\x02" + snippet + snippet);
  }
  std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
  std::mt19937_64 random(seed);
  const auto begin = std::chrono::steady_clock::now();
  std::uint64_t runs = 0;
  while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() < seconds) {
    Input input = mutate(pool[random() % pool.size()], random, pool);
    std::ofstream("crash-input", std::ios::binary) << input;
    run(input);
    ++runs;
    if (pool.size() < 2000) pool.push_back(std::move(input));
    else pool[random() % pool.size()] = std::move(input);
  }
  std::remove("crash-input");
  std::printf("%llu inputs, no finding\n", static_cast<unsigned long long>(runs));
  return 0;
}
