#include "library/file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace fastrnn {
namespace {

constexpr int64_t kPrefix = 8, kLongestHeader = 100'000'000;  // the format's own limit

int64_t header_size(const unsigned char* prefix, int64_t file_size) {
  uint64_t size = 0;
  for (int i = 0; i < kPrefix; ++i) size |= uint64_t(prefix[i]) << 8 * i;
  if (size > uint64_t(kLongestHeader) || int64_t(size) > file_size - kPrefix)
    fail(FASTRNN_BAD_FILE, "expected a safetensors file with a header no longer than itself, got one of " +
                               std::to_string(size) + " bytes in a file of " + std::to_string(file_size));
  return int64_t(size);
}

template <class S>
struct TypeOf;
template <>
struct TypeOf<float> {
  static constexpr const char* name = "F32";
};
template <>
struct TypeOf<BFloat16> {
  static constexpr const char* name = "BF16";
};
template <>
struct TypeOf<int8_t> {
  static constexpr const char* name = "I8";
};

// Of the types that have a meaning here; 0 for others.
int64_t bytes_of(const std::string& type) {
  if (type == TypeOf<float>::name) return sizeof(float);
  if (type == TypeOf<BFloat16>::name) return sizeof(BFloat16);
  if (type == TypeOf<int8_t>::name) return sizeof(int8_t);
  return 0;
}

void check(const std::string& name, const TensorInfo& info, int64_t data_size) {
  const auto refuse = [&](const std::string& what) { fail(FASTRNN_BAD_FILE, "tensor " + name + ": " + what); };
  int64_t bytes = bytes_of(info.type);
  if (bytes == 0) refuse("expected the type F32, BF16 or I8, got " + info.type);
  if (info.begin > info.end || info.end > data_size || info.begin % bytes != 0)
    refuse("expected a place in the " + std::to_string(data_size) + " bytes of data, got " +
           text_of({info.begin, info.end}));
  bool fits = true;
  for (const int64_t size : info.shape) fits &= size > 0 && !__builtin_mul_overflow(bytes, size, &bytes);
  if (!fits || bytes != info.end - info.begin)
    refuse("expected sizes above 0 that fill its " + std::to_string(info.end - info.begin) + " bytes, got " +
           text_of(info.shape));
}

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

}  // namespace

File::File(Header header, Block data, int64_t size) : header_(std::move(header)), data_(std::move(data)) {
  for (const auto& [name, info] : header_.tensors) check(name, info, size);
}

File File::read(const char* path) {
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path, "rb"));
  const auto refuse = [&] { fail(FASTRNN_NO_FILE, std::string(path) + ": " + std::strerror(errno)); };
  if (!file || std::fseek(file.get(), 0, SEEK_END) != 0) refuse();
  const int64_t size = std::ftell(file.get());
  if (size < 0 || std::fseek(file.get(), 0, SEEK_SET) != 0) refuse();
  const auto fill = [&](void* to, int64_t bytes) {
    errno = 0;
    if (int64_t(std::fread(to, 1, bytes, file.get())) == bytes) return;
    if (errno != 0) refuse();
    fail(FASTRNN_BAD_FILE,
         std::string(path) + ": expected a safetensors file, got one of " + std::to_string(size) + " bytes");
  };
  unsigned char prefix[kPrefix];
  fill(prefix, kPrefix);
  std::string header(header_size(prefix, size), ' ');
  fill(header.data(), int64_t(header.size()));
  const int64_t data_size = size - kPrefix - int64_t(header.size());
  Block data = make_block(data_size);
  fill(data.get(), data_size);
  return File(parse_header(header), std::move(data), data_size);
}

File File::of_memory(const void* bytes, size_t size) {
  if (size < size_t(kPrefix))
    fail(FASTRNN_BAD_FILE, "expected a safetensors file, got " + std::to_string(size) + " bytes");
  const char* begin = static_cast<const char*>(bytes);
  const int64_t header = header_size(reinterpret_cast<const unsigned char*>(begin), int64_t(size));
  const int64_t data_size = int64_t(size) - kPrefix - header;
  Header parsed = parse_header({begin + kPrefix, size_t(header)});
  Block data = make_block(data_size);
  std::memcpy(data.get(), begin + kPrefix + header, data_size);
  return File(std::move(parsed), std::move(data), data_size);
}

const TensorInfo& File::tensor(const std::string& name) const {
  const auto found = header_.tensors.find(name);
  if (found == header_.tensors.end()) fail(FASTRNN_BAD_FILE, "expected a tensor " + name + ", there is none");
  used_.insert(name);
  return found->second;
}

const Extents& File::shape(const std::string& name, size_t dimensions) const {
  const Extents& shape = tensor(name).shape;
  if (shape.size() != dimensions)
    fail(FASTRNN_BAD_FILE,
         "tensor " + name + ": expected " + std::to_string(dimensions) + " dimensions, got " + text_of(shape));
  return shape;
}

template <class S>
const S* File::data(const std::string& name, const Extents& shape) const {
  const TensorInfo& info = tensor(name);
  if (info.type != TypeOf<S>::name || info.shape != shape)
    fail(FASTRNN_BAD_FILE, "tensor " + name + ": expected " + TypeOf<S>::name + " " + text_of(shape) + ", got " +
                               info.type + " " + text_of(info.shape));
  return reinterpret_cast<const S*>(data_.get() + info.begin);
}

template const float* File::data(const std::string&, const Extents&) const;
template const BFloat16* File::data(const std::string&, const Extents&) const;
template const int8_t* File::data(const std::string&, const Extents&) const;

std::string File::unused() const {
  for (const auto& [name, info] : header_.tensors)
    if (!used_.count(name)) return name;
  return {};
}

}  // namespace fastrnn
