#include "duplicate_verifier.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace hanlin {

void DuplicateVerifier::add(std::uint32_t document, std::string_view text) {
  std::vector<std::uint64_t>& set = sets_[document];
  if (!set.empty()) return;
  shingle_set(shingler_, text, found_, scratch_);
  set.assign(found_.begin(), found_.end());
  bytes_ += set.size() * sizeof(std::uint64_t) + 64;  // 64: what a node of the map takes
}

void DuplicateVerifier::clear() {
  sets_.clear();
  bytes_ = 0;
}

std::size_t DuplicateVerifier::decide(std::span<const std::uint64_t> pairs, std::size_t begin, std::span<std::uint8_t> stays,
                               std::vector<DuplicatePair>& duplicates) const {
  for (std::size_t place = begin; place < pairs.size(); ++place) {
    const auto later = static_cast<std::uint32_t>(pairs[place] >> 32), earlier = static_cast<std::uint32_t>(pairs[place]);
    if (std::max(later, earlier) >= stays.size()) throw std::invalid_argument("no document " + std::to_string(std::max(later, earlier)));
    if (stays[later] == 0 || stays[earlier] == 0) continue;
    const auto left = sets_.find(later), right = sets_.find(earlier);
    if (left == sets_.end() || right == sets_.end()) return place;
    const auto one = static_cast<double>(left->second.size()), other = static_cast<double>(right->second.size());
    if (std::min(one, other) < threshold_ * std::max(one, other)) continue;  // even if the one held all of the other
    const double similarity = jaccard(left->second, right->second);
    if (similarity < threshold_) continue;
    stays[later] = 0;
    duplicates.push_back({later, earlier, static_cast<float>(similarity)});
  }
  return pairs.size();
}

}  // namespace hanlin
