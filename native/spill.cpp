#include "spill.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <memory>
#include <queue>
#include <stdexcept>

namespace hanlin {

namespace {

constexpr std::size_t kBuffer = std::size_t{1} << 20;

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

[[noreturn]] void fail(const std::string& path) { throw std::runtime_error(path + ": " + std::strerror(errno)); }

File open(const std::string& path, const char* mode) {
  File file(std::fopen(path.c_str(), mode));
  if (!file) fail(path);
  std::setvbuf(file.get(), nullptr, _IOFBF, kBuffer);
  return file;
}

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
  explicit Cursor(const std::string& path) : path_(path), file_(open(path, "rb")) { next(); }
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
    const std::size_t read = std::fread(head, sizeof(std::uint64_t), 2, file_.get());
    done_ = read == 0 && std::feof(file_.get()) != 0;
    if (done_) return;
    if (read != 2) throw std::runtime_error(path_ + ": cut short");
    bytes_.resize(head[0]);
    if (std::fread(bytes_.data(), 1, bytes_.size(), file_.get()) != bytes_.size()) throw std::runtime_error(path_ + ": cut short");
    word_ = bytes_;
    count_ = static_cast<std::int64_t>(head[1]);
    hash_ = hash_bytes(word_);
  }

 private:
  std::string path_;
  File file_;
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

Spill::~Spill() {
  for (const std::string& run : runs_) std::remove(run.c_str());
}

void Spill::write(const WordTable& table) {
  static std::atomic<unsigned> serial{0};
  const std::string path = folder_ + "/run-" + std::to_string(serial++);
  runs_.push_back(path);  // so that half a file is removed as well
  const File file = open(path, "wb");
  for (const Order& item : by_hash(table)) {
    const Word word = table[item.index];
    const std::uint64_t head[2] = {word.bytes.size(), static_cast<std::uint64_t>(word.count)};
    if (std::fwrite(head, sizeof(std::uint64_t), 2, file.get()) != 2 ||
        std::fwrite(word.bytes.data(), 1, word.bytes.size(), file.get()) != word.bytes.size()) {
      fail(path);
    }
  }
  if (std::fflush(file.get()) != 0) fail(path);
}

void Spill::absorb(Spill& other) {
  runs_.insert(runs_.end(), other.runs_.begin(), other.runs_.end());
  other.runs_.clear();
}

void Spill::each(const WordTable& table, const std::function<void(std::string_view, std::int64_t)>& visit) const {
  std::vector<std::unique_ptr<Cursor>> cursors;
  for (const std::string& run : runs_) cursors.push_back(std::make_unique<Cursor>(run));
  cursors.push_back(std::make_unique<Cursor>(table));
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
