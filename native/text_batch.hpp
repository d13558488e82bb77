// Texts behind one another: what the counters and the encoder are fed.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace hanlin {

class TextBatch {
 public:
  void append(std::string_view text) {
    bytes_.append(text);
    end();
  }

  // For a text that is put together: append to `open()`, then end() or drop() it.
  std::string& open() { return bytes_; }
  void end() { ends_.push_back(bytes_.size()); }
  void clear() {
    bytes_.clear();
    ends_.resize(1);
  }
  void drop() { bytes_.resize(ends_.back()); }
  std::string_view opened() const { return std::string_view(bytes_).substr(ends_.back()); }

  std::size_t size() const { return ends_.size() - 1; }
  std::size_t bytes() const { return ends_.back(); }
  std::string_view operator[](std::size_t index) const { return std::string_view(bytes_).substr(ends_[index], ends_[index + 1] - ends_[index]); }

 private:
  std::string bytes_;
  std::vector<std::size_t> ends_{0};
};

}  // namespace hanlin
