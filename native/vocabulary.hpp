// The vocabulary in a tokenizer.json, read without making an object of each of its hundreds of thousands of strings: half of the
// time that opening a tokenizer took.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "encoder.hpp"

namespace hanlin {

struct Vocabulary {
  std::vector<std::string> tokens;  // the bytes that each id spells
  std::vector<Merge> merges;        // by rank
};

// Reads `model.vocab` ({letters: id}, every byte written as a letter, GPT-2's way) and `model.merges` ([[left, right], …]) of a JSON document.
// `rest` becomes the document with both emptied, for a reader who also wants to know whether it is JSON at all.
//
// Throws std::invalid_argument, with what is wrong, unless both are there, the ids are 0, 1, 2, … without a gap, every letter stands for
// a byte, and every merge joins two tokens to a third.
Vocabulary read_vocabulary(std::string_view json, std::string& rest);

}  // namespace hanlin
