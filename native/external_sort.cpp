#include "external_sort.hpp"

#include <algorithm>
#include <atomic>
#include <memory>
#include <queue>

#include "file.hpp"

namespace hanlin {

namespace {

// Indices of a table's words, by hash, equals by their bytes.
struct Order {
  std::uint64_t hash;
  std::uint32_t index;
};

std::vector<Order> by_hash(const WordTable& table) {
  std::vector<Order> order;
  order.reserve(table.size());
  for (std::uint32_t index = 0; index < table.size(); ++index) order.push_back({hash_bytes(table[index].bytes), index});
  std::sort(order.begin(), order.end(), [&](const Order& a, const Order& b) {
    return a.hash != b.hash ? a.hash < b.hash : table[a.index].bytes < table[b.index].bytes;
  });
  return order;
}

// One sorted sequence of words: a run's file, or a table.
class Cursor {
 public:
  explicit Cursor(const std::string& path) : file_(std::make_unique<FileReader>(path)) { next(); }
  explicit Cursor(const WordTable& table) : table_(&table), order_(by_hash(table)) { next(); }

  bool done() const { return done_; }
  std::uint64_t hash() const { return hash_; }
  std::string_view word() const { return word_; }
  std::int64_t count() const { return count_; }

  void next() {
    if (table_ != nullptr) {
      done_ = place_ == order_.size();
      if (done_) return;
      const Word found = (*table_)[order_[place_].index];
      hash_ = order_[place_++].hash;
      word_ = found.bytes;
      count_ = found.count;
      return;
    }
    std::uint64_t head[2];  // size, count
    done_ = !file_->get(head, 2);
    if (done_) return;
    bytes_.resize(head[0]);
    file_->get(bytes_);
    word_ = bytes_;
    count_ = static_cast<std::int64_t>(head[1]);
    hash_ = hash_bytes(word_);
  }

 private:
  std::unique_ptr<FileReader> file_;
  const WordTable* table_ = nullptr;
  std::vector<Order> order_;
  std::size_t place_ = 0;
  std::string bytes_;
  std::string_view word_;
  std::uint64_t hash_ = 0;
  std::int64_t count_ = 0;
  bool done_ = false;
};

}  // namespace

void ExternalSort::write(const WordTable& table) {
  static std::atomic<unsigned> serial{0};
  const std::string path = folder_ + "/run-" + std::to_string(serial++);
  FileWriter file(path);
  for (const Order& item : by_hash(table)) {
    const Word word = table[item.index];
    file.put({word.bytes.size(), static_cast<std::uint64_t>(word.count)});
    file.put(word.bytes);
  }
  file.close();
  runs_.push_back(path);
}

void ExternalSort::absorb(ExternalSort& other) {
  runs_.insert(runs_.end(), other.runs_.begin(), other.runs_.end());
  other.runs_.clear();
}

void ExternalSort::each(const std::vector<WordTable>& tables, const std::function<void(std::string_view, std::int64_t)>& visit) const {
  std::vector<std::unique_ptr<Cursor>> cursors;
  for (const std::string& run : runs_) cursors.push_back(std::make_unique<Cursor>(run));
  for (const WordTable& table : tables) cursors.push_back(std::make_unique<Cursor>(table));
  const auto later = [](const Cursor* a, const Cursor* b) { return a->hash() != b->hash() ? a->hash() > b->hash() : a->word() > b->word(); };
  std::priority_queue<Cursor*, std::vector<Cursor*>, decltype(later)> queue(later);
  for (const auto& cursor : cursors) {
    if (!cursor->done()) queue.push(cursor.get());
  }
  std::string word;
  while (!queue.empty()) {
    word = queue.top()->word();
    std::int64_t count = 0;
    while (!queue.empty() && queue.top()->word() == word) {
      Cursor* cursor = queue.top();
      queue.pop();
      count += cursor->count();
      cursor->next();
      if (!cursor->done()) queue.push(cursor);
    }
    visit(word, count);
  }
}

}  // namespace hanlin
