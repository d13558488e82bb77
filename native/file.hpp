// Files of 64-bit numbers and bytes, in the machine's own order: for what a computation keeps between two runs of it, never for exchange.
// Everything that goes wrong is a std::runtime_error with the file's name and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

namespace hanlin {

class File {
 public:
  File(std::string path, const char* mode, std::size_t buffer);

  [[noreturn]] void fail(const char* what) const;  // the path and what is wrong
  [[noreturn]] void fail() const;                  // the path and the system's reason

 protected:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

class FileWriter : public File {
 public:
  explicit FileWriter(std::string path) : File(std::move(path), "wb", std::size_t{1} << 20) {}
  void put(std::initializer_list<std::uint64_t> numbers);
  void put(std::string_view bytes);
  void close();  // nothing is known to be written before
};

class FileReader : public File {
 public:
  explicit FileReader(std::string path) : File(std::move(path), "rb", std::size_t{1} << 18) {}
  bool get(std::uint64_t* numbers, std::size_t count);  // false at the end of the file
  void get(std::string& bytes);                         // as many as it has
  void get_bytes(void* data, std::size_t bytes);
  void seek(std::uint64_t place);                       // in bytes from the beginning
};

}  // namespace hanlin
