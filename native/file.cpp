#include "file.hpp"

#ifndef _WIN32
#include <sys/types.h>
#endif

#include <cerrno>
#include <cstring>
#include <stdexcept>

namespace hanlin {

File::File(std::string path, const char* mode, std::size_t buffer) : path_(std::move(path)), file_(std::fopen(path_.c_str(), mode)) {
  if (!file_) fail();
  std::setvbuf(file_.get(), nullptr, _IOFBF, buffer);
}

void File::fail(const char* what) const { throw std::runtime_error(path_ + ": " + what); }

void File::fail() const { fail(std::strerror(errno)); }

void FileWriter::put(std::initializer_list<std::uint64_t> numbers) {
  if (std::fwrite(numbers.begin(), sizeof(std::uint64_t), numbers.size(), file_.get()) != numbers.size()) fail();
}

void FileWriter::put(std::string_view bytes) {
  if (std::fwrite(bytes.data(), 1, bytes.size(), file_.get()) != bytes.size()) fail();
}

void FileWriter::close() {
  if (std::fclose(file_.release()) != 0) fail();
}

bool FileReader::get(std::uint64_t* numbers, std::size_t count) {
  const std::size_t read = std::fread(numbers, sizeof(std::uint64_t), count, file_.get());
  if (read == 0 && std::feof(file_.get()) != 0) return false;
  if (read != count) fail("cut short");
  return true;
}

void FileReader::get(std::string& bytes) { get_bytes(bytes.data(), bytes.size()); }

void FileReader::get_bytes(void* data, std::size_t bytes) {
  if (std::fread(data, 1, bytes, file_.get()) != bytes) fail("cut short");
}

void FileReader::seek(std::uint64_t place) {
#ifdef _WIN32
  if (_fseeki64(file_.get(), static_cast<long long>(place), SEEK_SET) != 0) fail();
#else
  if (fseeko(file_.get(), static_cast<off_t>(place), SEEK_SET) != 0) fail();
#endif
}

}  // namespace hanlin
