#include "library/header.h"

#include <utility>

namespace fastrnn {
namespace {

class Parser {
 public:
  explicit Parser(std::string_view json) : json_(json) {}

  Header parse() {
    Header header;
    for_members([&](const std::string& name) {
      if (name == "__metadata__")
        for_members([&](const std::string& key) { insert(header.metadata, key, string()); });
      else
        insert(header.tensors, name, tensor());
    });
    skip_space();
    if (at_ < json_.size()) refuse("the end");
    return header;
  }

 private:
  [[noreturn]] void refuse(const std::string& expected) const {
    fail(FASTRNN_BAD_FILE, "header: expected " + expected + " at byte " + std::to_string(at_));
  }

  template <class V>
  void insert(std::map<std::string, V>& into, const std::string& name, V value) const {
    if (!into.emplace(name, std::move(value)).second) refuse("each name once, got one again, ending");
  }

  void skip_space() {
    while (at_ < json_.size() && (json_[at_] == ' ' || json_[at_] == '\n' || json_[at_] == '\r' || json_[at_] == '\t'))
      ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ == json_.size() || json_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) refuse(std::string("'") + c + "'");
  }

  // f() between brackets as often as there are commas for it.
  template <class F>
  void for_items(char open, char close, F&& f) {
    expect(open);
    if (take(close)) return;
    do f();
    while (take(','));
    expect(close);
  }
  template <class F>
  void for_members(F&& f) {
    for_items('{', '}', [&] {
      const std::string name = string();
      expect(':');
      f(name);
    });
  }

  std::string string() {
    expect('"');
    std::string out;
    while (at_ < json_.size() && json_[at_] != '"') {
      const char c = json_[at_++];
      if (static_cast<unsigned char>(c) < 0x20) refuse("no control character before this,");
      out += c == '\\' ? escaped() : c;
    }
    expect('"');
    return out;
  }

  char escaped() {
    constexpr std::string_view names = "\"\\/bfnrt", values = "\"\\/\b\f\n\r\t";
    const size_t which = at_ < json_.size() ? names.find(json_[at_]) : std::string_view::npos;
    if (which == std::string_view::npos) refuse("one of \\\" \\\\ \\/ \\b \\f \\n \\r \\t");
    ++at_;
    return values[which];
  }

  int64_t number() {
    skip_space();
    constexpr int most_digits = 18;  // which an int64_t holds
    int64_t value = 0;
    int digits = 0;
    for (; at_ < json_.size() && json_[at_] >= '0' && json_[at_] <= '9' && digits <= most_digits; ++at_, ++digits)
      value = digits < most_digits ? 10 * value + (json_[at_] - '0') : value;
    if (digits == 0 || digits > most_digits) refuse("a number of 1 to 18 digits, ending");
    return value;
  }

  Extents numbers() {
    Extents out;
    for_items('[', ']', [&] { out.push_back(number()); });
    return out;
  }

  TensorInfo tensor() {
    TensorInfo info{{}, {}, -1, -1};
    bool has_shape = false;
    for_members([&](const std::string& field) {
      if (field == "dtype") {
        info.type = string();
      } else if (field == "shape") {
        info.shape = numbers();
        has_shape = true;
      } else if (field == "data_offsets") {
        const Extents offsets = numbers();
        if (offsets.size() != 2) refuse("two data_offsets before this,");
        info.begin = offsets[0], info.end = offsets[1];
      } else {
        refuse("dtype, shape or data_offsets before this,");
      }
    });
    if (info.type.empty() || !has_shape || info.begin < 0) refuse("dtype, shape and data_offsets before this,");
    return info;
  }

  std::string_view json_;
  size_t at_ = 0;
};

}  // namespace

Header parse_header(std::string_view json) { return Parser(json).parse(); }

}  // namespace fastrnn
