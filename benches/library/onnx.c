/* One step of a layer by ONNX Runtime's C interface, on one thread. MODEL is a file of fastrnn.export with
 * format="onnx": x [1, 1, H] and the states to y and the final states. Outputs are written where the next call reads
 * its states: two sets of tensors take turns, and a call makes none. */
#define _POSIX_C_SOURCE 199309L
#include <onnxruntime_c_api.h>

#include "timing.h"

static const OrtApi* api;

static void check(OrtStatus* status) {
  if (status) fail(api->GetErrorMessage(status));
}

enum { kMostStates = 2 };

typedef struct Layer {
  OrtSession* session;
  size_t states, turn;
  const char *inputs[1 + kMostStates], *outputs[1 + kMostStates];
  OrtValue *x, *y, *state[2][kMostStates];
  float *x_values, *y_values;
  size_t units;
} Layer;

static OrtValue* tensor(float* values, size_t units) {
  static OrtMemoryInfo* memory;
  const int64_t shape[] = {1, 1, (int64_t)units};
  OrtValue* value;
  if (!memory) check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(api->CreateTensorWithDataAsOrtValue(memory, values, units * sizeof(float), shape, 3,
                                            ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &value));
  return value;
}

static void step(void* of, const float* x, float* y) {
  Layer* layer = (Layer*)of;
  OrtValue* const* now = layer->state[layer->turn];
  OrtValue* const* next = layer->state[layer->turn ^= 1];
  const OrtValue* inputs[1 + kMostStates] = {layer->x};
  OrtValue* outputs[1 + kMostStates] = {layer->y};
  for (size_t i = 0; i < layer->states; ++i) inputs[1 + i] = now[i], outputs[1 + i] = next[i];
  for (size_t i = 0; i < layer->units; ++i) layer->x_values[i] = x[i];
  check(api->Run(layer->session, NULL, layer->inputs, inputs, 1 + layer->states, layer->outputs, 1 + layer->states,
                 outputs));
  for (size_t i = 0; i < layer->units; ++i) y[i] = layer->y_values[i];
}

int main(int count, char** arguments) {
  const double start = now();
  static Layer layer = {.inputs = {"x", "state_0", "state_1"}, .outputs = {"y", "final_0", "final_1"}};
  OrtEnv* environment;
  OrtSessionOptions* options;
  OrtTypeInfo* type;
  const OrtTensorTypeAndShapeInfo* shape;
  int64_t sizes[3];
  if (count != 4) fail("expected MODEL OUTPUT CALLS");
  api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!api) fail("the library is older than its header");
  check(api->CreateEnv(ORT_LOGGING_LEVEL_ERROR, "step", &environment));
  check(api->CreateSessionOptions(&options));
  check(api->SetIntraOpNumThreads(options, 1));
  check(api->SetInterOpNumThreads(options, 1));
  check(api->SetSessionGraphOptimizationLevel(options, ORT_ENABLE_ALL));
  check(api->CreateSession(environment, arguments[1], options, &layer.session));
  check(api->SessionGetInputCount(layer.session, &layer.states));
  check(api->SessionGetInputTypeInfo(layer.session, 0, &type));
  check(api->CastTypeInfoToTensorInfo(type, &shape));
  check(api->GetDimensions(shape, sizes, 3));
  layer.states -= 1, layer.units = (size_t)sizes[2];
  layer.x_values = room(layer.units), layer.y_values = room(layer.units);
  layer.x = tensor(layer.x_values, layer.units), layer.y = tensor(layer.y_values, layer.units);
  for (size_t i = 0; i < 2 * layer.states; ++i) layer.state[i % 2][i / 2] = tensor(room(layer.units), layer.units);
  measure(arguments, &layer, layer.units, start, step);
  return EXIT_SUCCESS;
}
