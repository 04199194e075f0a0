#include "torch/autocast.h"

#include <ATen/autocast_mode.h>

namespace fastrnn {

using at::Tensor;

std::tuple<Tensor, Tensors, Tensor> layer_forward_autocast(
    const Tensor& x, const OptionalTensor& h_0, const OptionalTensor& c_0, at::TensorList weights,
    const OptionalTensor& batch_sizes, std::string_view cell, int64_t directions, bool has_bias, bool batch_first,
    bool save, const OptionalTensor& lengths, const OptionalTensor& reset, const OptionalTensor& h_reset,
    const OptionalTensor& c_reset, bool every_state, bool recompute, const OptionalTensor& h_mask, double zoneout_h,
    double zoneout_c, const OptionalTensor& zoneout_seed, bool layer_norm) {
  static const auto forward = find_operator<decltype(layer_forward)>("fastrnn::layer_forward");
  const c10::DeviceType device = x.device().type();
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const auto cast = [&](const auto& given) { return at::autocast::cached_cast(type, given, device); };
  const c10::impl::ExcludeDispatchKeyGuard below(c10::autocast_dispatch_keyset);
  return forward.call(cast(x), cast(h_0), cast(c_0), cast(weights), batch_sizes, cell, directions, has_bias,
                      batch_first, save, lengths, reset, cast(h_reset), cast(c_reset), every_state, recompute,
                      cast(h_mask), zoneout_h, zoneout_c, zoneout_seed, layer_norm);
}

}  // namespace fastrnn
