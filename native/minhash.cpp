#include "minhash.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "unicode.hpp"

// One build for every x86-64 processor: the loader chooses the loops for the one it is on.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && __GNUC__ >= 12 && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define HANLIN_CLONES __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define HANLIN_CLONES
#endif

namespace hanlin {

namespace {

constexpr std::uint64_t kPolynomial = 0xD6E8FEB86659FD93ull;  // odd, otherwise as good as any
constexpr std::size_t kBlock = 4096;                          // shingles whose hashes stay in the nearest cache

// MurmurHash3's finish for 64 bits.
std::uint64_t finish(std::uint64_t hash) {
  hash = (hash ^ hash >> 33) * 0xFF51AFD7ED558CCDull;
  hash = (hash ^ hash >> 33) * 0xC4CEB9FE1A85EC53ull;
  return hash ^ hash >> 33;
}

// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
std::uint64_t next_random(std::uint64_t& state) {
  std::uint64_t value = state += 0x9E3779B97F4A7C15ull;
  value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ value >> 27) * 0x94D049BB133111EBull;
  return value ^ value >> 31;
}

// The least image of `count` values, for each of the functions, where it is less than what is there.
HANLIN_CLONES void lower(const std::uint32_t* values, std::size_t count, const std::uint32_t* a, const std::uint32_t* b, std::uint32_t* least,
                         std::size_t functions) {
  for (std::size_t function = 0; function < functions; ++function) {
    const std::uint32_t factor = a[function], term = b[function];
    std::uint32_t found = least[function];
    for (std::size_t index = 0; index < count; ++index) found = std::min(found, values[index] * factor + term);
    least[function] = found;
  }
}

}  // namespace

Digest digest_of(std::string_view bytes) {
  std::uint64_t first = 0x243F6A8885A308D3ull ^ bytes.size(), second = 0x13198A2E03707344ull ^ bytes.size();
  for (std::size_t place = 0; place < bytes.size(); place += 8) {
    std::uint64_t block = 0;
    std::memcpy(&block, bytes.data() + place, std::min<std::size_t>(8, bytes.size() - place));
    first = (first ^ block) * 0xBF58476D1CE4E5B9ull;
    first ^= first >> 29;
    second = (second + block) * 0x9FB21C651E98DF25ull;
    second ^= second >> 32;
  }
  return {finish(first), finish(second)};
}

Shingler::Shingler(std::size_t size) : size_(size) {
  if (size < 1 || size > 256) throw std::invalid_argument("a shingle has 1 to 256 characters");
  for (std::size_t power = 0; power < size; ++power) leaving_ *= kPolynomial;
}

void Shingler::operator()(std::string_view text, std::vector<std::uint64_t>& hashes) const {
  // Characters and hashes share the memory: shingle i is written over character i, its first, which then leaves the window.
  hashes.resize(std::max(text.size(), size_));
  std::size_t count = 0;
  for (std::size_t position = 0; position < text.size();) {
    const Unit unit = decode_unit(text, position);
    position += unit.size;
    hashes[count++] = unit.code_point;
  }
  while (count < size_) hashes[count++] = 0;
  std::uint64_t rolled = 0;
  for (std::size_t index = 0; index + 1 < size_; ++index) rolled = rolled * kPolynomial + hashes[index];
  std::uint64_t left = 0;  // the character that left the window
  for (std::size_t index = size_ - 1; index < count; ++index) {
    rolled = rolled * kPolynomial + hashes[index] - left * leaving_;
    std::uint64_t& first = hashes[index - (size_ - 1)];
    left = first;
    first = finish(rolled);
  }
  hashes.resize(count - (size_ - 1));
}

MinHasher::MinHasher(std::size_t shingle, std::size_t values, std::uint64_t seed) : shingler_(shingle) {
  if (values == 0) throw std::invalid_argument("a signature has at least one value");
  for (std::size_t value = 0; value < values; ++value) {
    a_.push_back(static_cast<std::uint32_t>(next_random(seed) >> 32) | 1);
    b_.push_back(static_cast<std::uint32_t>(next_random(seed) >> 32));
  }
}

void MinHasher::sign(std::string_view text, std::uint32_t* signature, Scratch& scratch) const {
  shingler_(text, scratch.hashes);
  scratch.folded.resize(scratch.hashes.size());
  for (std::size_t index = 0; index < scratch.hashes.size(); ++index) scratch.folded[index] = static_cast<std::uint32_t>(scratch.hashes[index] >> 32);
  std::fill(signature, signature + a_.size(), 0xFFFFFFFFu);
  for (std::size_t begin = 0; begin < scratch.folded.size(); begin += kBlock) {
    lower(scratch.folded.data() + begin, std::min(kBlock, scratch.folded.size() - begin), a_.data(), b_.data(), signature, a_.size());
  }
}

void sort_hashes(std::vector<std::uint64_t>& hashes, HashSorting& scratch) {
  constexpr std::size_t kFew = 64;
  if (hashes.size() < kFew) return std::sort(hashes.begin(), hashes.end());
  const unsigned shift = 64u - static_cast<unsigned>(std::bit_width(hashes.size()));
  scratch.ends.assign(std::size_t{1} << (64 - shift), 0);
  for (const std::uint64_t hash : hashes) ++scratch.ends[hash >> shift];
  std::uint32_t begin = 0;
  for (std::uint32_t& end : scratch.ends) begin += std::exchange(end, begin);
  scratch.sorted.resize(hashes.size());
  for (const std::uint64_t hash : hashes) scratch.sorted[scratch.ends[hash >> shift]++] = hash;
  begin = 0;
  for (const std::uint32_t end : scratch.ends) {
    if (end - begin > 1) std::sort(scratch.sorted.begin() + begin, scratch.sorted.begin() + end);
    begin = end;
  }
  hashes.swap(scratch.sorted);
}

void shingle_set(const Shingler& shingler, std::string_view text, std::vector<std::uint64_t>& set, HashSorting& scratch) {
  shingler(text, set);
  sort_hashes(set, scratch);
  set.erase(std::unique(set.begin(), set.end()), set.end());
}

double jaccard(const std::vector<std::uint64_t>& left, const std::vector<std::uint64_t>& right) {
  std::size_t both = 0;
  const auto *a = left.data(), *a_end = a + left.size(), *b = right.data(), *b_end = b + right.size();
  while (a != a_end && b != b_end) {
    const std::uint64_t first = *a, second = *b;
    both += first == second;
    a += first <= second;
    b += second <= first;
  }
  const std::size_t either = left.size() + right.size() - both;
  return either == 0 ? 0.0 : static_cast<double>(both) / static_cast<double>(either);
}

}  // namespace hanlin
