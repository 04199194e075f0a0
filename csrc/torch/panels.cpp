#include "torch/panels.h"

#include <pthread.h>

#include <algorithm>
#include <mutex>
#include <unordered_map>
#include <vector>

namespace fastrnn {
namespace {

// A weak pointer keeps the address, so that no other tensor can take it.
struct Source {
  c10::weak_intrusive_ptr<c10::TensorImpl> tensor;
  int64_t version;

  bool is(const at::Tensor& t) const {
    return tensor._unsafe_get_target() == t.unsafeGetTensorImpl() && version == t._version();
  }
};

struct Entry {
  std::vector<Source> sources;
  const void* kernels;
  CellKind kind;
  int64_t directions;
  at::Tensor panels;

  bool is_of(at::TensorList weights, const void* kernels_, CellKind kind_, int64_t directions_) const {
    return kernels == kernels_ && kind == kind_ && directions == directions_ &&
           std::equal(sources.begin(), sources.end(), weights.begin(), weights.end(),
                      [](const Source& source, const at::Tensor& t) { return source.is(t); });
  }
};

// What is remembered, by the first tensor. Outlives its users.
struct Remembered {
  std::mutex mutex;
  std::unordered_map<c10::TensorImpl*, Entry> entries;
};
Remembered& remembered = *new Remembered;

// A child that was forked while another thread held the mutex would wait for ever.
[[maybe_unused]] const int at_fork = pthread_atfork([] { remembered.mutex.lock(); }, [] { remembered.mutex.unlock(); },
                                                    [] { remembered.mutex.unlock(); });

}  // namespace

at::Tensor remembered_panels(at::TensorList weights, const void* kernels, CellKind kind, int64_t directions,
                             const std::function<at::Tensor()>& make) {
  if (std::any_of(weights.begin(), weights.end(), [](const at::Tensor& t) { return t.is_inference(); })) return make();

  c10::TensorImpl* const key = weights[0].unsafeGetTensorImpl();
  {
    const std::lock_guard lock(remembered.mutex);
    const auto found = remembered.entries.find(key);
    if (found != remembered.entries.end() && found->second.is_of(weights, kernels, kind, directions))
      return found->second.panels;
  }
  Entry entry{{}, kernels, kind, directions, {}};
  for (const at::Tensor& t : weights)
    entry.sources.push_back({c10::weak_intrusive_ptr<c10::TensorImpl>(t.getIntrusivePtr()), t._version()});
  entry.panels = make();
  const at::Tensor panels = entry.panels;

  std::vector<Entry> gone;  // and freed after the mutex
  const std::lock_guard lock(remembered.mutex);
  for (auto at = remembered.entries.begin(); at != remembered.entries.end();) {
    if (at->first == key || at->second.sources[0].tensor.expired()) {
      gone.push_back(std::move(at->second));
      at = remembered.entries.erase(at);
    } else {
      ++at;
    }
  }
  remembered.entries.emplace(key, std::move(entry));
  return panels;
}

}  // namespace fastrnn
