// Texts from JSON lines, without the objects around them: what a corpus is read for when a tokenizer is trained or a data set encoded.
//
// Only plain lines are read here: one object with known keys in a known order, valid JSON and UTF-8 throughout, the text neither blank nor
// beginning with a tag. In front of any other line reading stops, and the caller, who has a full parser, decides what it is. So nothing
// is accepted that the full parser would refuse.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "text_batch.hpp"

namespace hanlin {

class JsonLines {
 public:
  // `text_key` is the key of the text; longer lines than `longest` bytes are not plain.
  JsonLines(std::string text_key, std::size_t longest) : text_key_(std::move(text_key)), longest_(longest) {}

  // From now on, objects with exactly these keys in this order are plain. More than kMostShapes of them are not remembered.
  void know(std::vector<std::string> keys) {
    if (shapes_.size() < kMostShapes) shapes_.push_back(std::move(keys));
  }

  // Appends the texts of the lines from `begin` on; where it stopped: the end of `block`, or the beginning of a line that is not plain.
  // The end of the block ends its last line. `lines` is increased by the lines passed.
  std::size_t read(std::string_view block, std::size_t begin, TextBatch& texts, std::size_t& lines) const;

 private:
  static constexpr std::size_t kMostShapes = 64;

  bool read_line(std::string_view line, TextBatch& texts) const;

  std::string text_key_;
  std::size_t longest_;
  std::vector<std::vector<std::string>> shapes_;
};

}  // namespace hanlin
