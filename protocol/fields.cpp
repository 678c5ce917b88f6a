#include "protocol/fields.hpp"

namespace ddipp::protocol {
namespace {

// Returns false, which ends the parsing, as soon as every field has its text.
class Reader final : public nlohmann::json_sax<Json> {
 public:
  explicit Reader(std::initializer_list<TextField> fields)
      : fields_(fields), missing_(fields.size()) {
    for (const auto& field : fields_) field.value.clear();
  }

  bool complete() const { return missing_ == 0; }

  bool null() override { return scalar(); }
  bool boolean(bool value) override {
    string_t text = value ? "true" : "false";
    return string(text);
  }
  bool number_integer(number_integer_t) override { return scalar(); }
  bool number_unsigned(number_unsigned_t) override { return scalar(); }
  bool number_float(number_float_t, const string_t&) override { return scalar(); }
  bool binary(binary_t&) override { return scalar(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool end_object() override { return leave(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

  bool start_object(std::size_t) override {
    is_map_ = is_map_ || depth_ == 0;
    return enter();
  }

  bool key(string_t& name) override {
    wanted_ = nullptr;
    if (depth_ != 1) return true;
    for (const auto& field : fields_) {
      if (field.name == name) wanted_ = &field;
    }
    return true;
  }

  bool string(string_t& text) override {
    if (depth_ == 0) return false;
    if (wanted_ == nullptr || depth_ != 1) return true;
    if (wanted_->value.empty() && !text.empty()) --missing_;
    wanted_->value = text;
    wanted_ = nullptr;
    return missing_ > 0;
  }

 private:
  bool scalar() {
    wanted_ = nullptr;
    return depth_ > 0;
  }
  bool enter() {
    wanted_ = nullptr;
    ++depth_;
    return is_map_ && depth_ <= static_cast<int>(kMaxDepth);  // the parser of msgpack recurses
  }
  bool leave() {
    --depth_;
    return true;
  }

  std::initializer_list<TextField> fields_;
  const TextField* wanted_ = nullptr;
  std::size_t missing_;
  int depth_ = 0;
  bool is_map_ = false;
};

}  // namespace

bool read_texts(std::string_view packed, Packing packing, std::initializer_list<TextField> fields) {
  Reader reader(fields);
  const bool whole = packing == Packing::json
                         ? Json::sax_parse(packed, &reader)
                         : Json::sax_parse(packed, &reader, Json::input_format_t::msgpack);
  return whole || reader.complete();
}

}  // namespace ddipp::protocol
