#include "reachability.hpp"

#include <algorithm>
#include <string>

namespace hanlin {

namespace {

using Contexts = std::vector<std::string>;

const Contexts kBefore = {"", "a", "!", " ", "\n", "1"};
// White space with a newline in it goes on to the last newline, so its parts need others after them; some may be merged with them.
const Contexts kAfter = {"", "a", "!", " ", "\n", "1", "\r", " \n", "\t\n", "\v\n", "\f\n", "\u2028\n", "\u205F\n", "\u2028\r", "\u205F\r"};

std::string continuation(unsigned low) { return std::string(1, static_cast<char>(0x80 + low)); }

// Bytes before a token that begins with continuation bytes: the head of a character they may be the rest of.
Contexts heads(std::string_view token) {
  std::size_t tail = 0;
  while (tail < token.size() && is_continuation(static_cast<unsigned char>(token[tail]))) ++tail;
  Contexts result;
  for (unsigned lead = 0xC2; lead < 0xF5; ++lead) {
    const std::size_t missing = (lead < 0xE0 ? 1u : lead < 0xF0 ? 2u : 3u) - tail;  // wraps around where the tail is too long
    const std::string first(1, static_cast<char>(lead));
    if (missing == 0) result.push_back(first);
    if (missing == 1) {
      for (unsigned low = 0; low < 64; ++low) result.push_back(first + continuation(low));
    }
  }
  return tail == 0 ? Contexts{""} : result;
}

// Bytes after a token that ends inside a character: the rest of it.
Contexts tails(std::string_view token) {
  std::size_t last = token.size();
  while (last > 0 && is_continuation(static_cast<unsigned char>(token[last - 1]))) --last;
  if (last == 0) return {""};
  const auto lead = static_cast<unsigned char>(token[last - 1]);
  const std::size_t size = lead < 0xC2 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  const std::size_t present = token.size() - last + 1;
  if (present >= size) return {""};
  Contexts result;
  for (unsigned low = 0; low < 64; ++low) {
    if (size - present == 1) result.push_back(continuation(low));
    for (unsigned next = 0; next < 64 && size - present >= 2; ++next) {
      result.push_back(continuation(low) + continuation(next) + (size - present == 3 ? "\x80" : ""));
    }
  }
  return result;
}

class Search {
 public:
  explicit Search(const Encoder& encoder) : encoder_(encoder) {}

  bool reachable(Id id) {
    if (between(id, kBefore, kAfter)) return true;
    const std::string_view token = encoder_.spelling(id);
    return !shape_of(token).whole && between(id, heads(token), tails(token));
  }

 private:
  bool between(Id id, const Contexts& befores, const Contexts& afters) {
    for (const std::string& before : befores) {
      for (const std::string& after : afters) {
        text_.assign(before).append(encoder_.spelling(id)).append(after);
        ids_.clear();
        encoder_.encode(text_, ids_, scratch_);
        if (std::find(ids_.begin(), ids_.end(), id) != ids_.end()) return true;
      }
    }
    return false;
  }

  const Encoder& encoder_;
  Encoder::Scratch scratch_;
  Ids ids_;
  std::string text_;
};

}  // namespace

std::vector<Id> unreachable(const Encoder& encoder) {
  Search search(encoder);
  std::vector<Id> lost;
  for (Id id = 0; id < encoder.ordinary(); ++id) {
    if (!search.reachable(id)) lost.push_back(id);
  }
  return lost;
}

}  // namespace hanlin
