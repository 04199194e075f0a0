/* Gives libfastrnn what does not fit, for tests/test_library.py: files of a model of features, of one of tokens, and of
 * one of tokens with 2 directions. Prints statuses and texts. */
#include <fastrnn.h>
#include <stdio.h>
#include <stdlib.h>

static fastrnn_error error;

static void show(fastrnn_status status) {
  if (status)
    printf("%d %s\n", (int)status, error.text);
  else
    printf("%d\n", (int)status);
}

static fastrnn_stream* stream_of(const char* path, int64_t steps) {
  fastrnn_model* model;
  fastrnn_stream* stream;
  if (fastrnn_load(path, &model, &error) || fastrnn_stream_create(model, 1, steps, &stream, &error)) {
    fprintf(stderr, "%s\n", error.text);
    exit(EXIT_FAILURE);
  }
  fastrnn_model_destroy(model);
  return stream;
}

int main(int count, char** paths) {
  static float values[4096], output[4096];
  static int32_t tokens[8] = {1, 2, 3, 9, 1, 1, 1, 1};
  fastrnn_model* model;
  fastrnn_stream* none;
  if (count != 4) return EXIT_FAILURE;
  show(fastrnn_load("/nowhere", &model, &error));
  show(fastrnn_load(NULL, &model, &error));
  if (fastrnn_load(paths[1], &model, &error)) return EXIT_FAILURE;
  show(fastrnn_stream_create(model, 0, 4, &none, &error));
  show(fastrnn_stream_create(model, INT64_MAX, INT64_MAX, &none, &error));
  fastrnn_model_destroy(model);

  fastrnn_stream *of_features = stream_of(paths[1], 4), *of_tokens = stream_of(paths[2], 4);
  fastrnn_stream* of_two_directions = stream_of(paths[3], 4);
  show(fastrnn_process_tokens(of_features, tokens, 1, output, &error));
  show(fastrnn_process(of_features, NULL, 1, output, &error));
  show(fastrnn_process(of_features, values, 0, output, &error));
  show(fastrnn_process_tokens(of_tokens, tokens, 4, output, &error));
  tokens[3] = -1;
  show(fastrnn_process_tokens(of_tokens, tokens, 4, output, &error));
  tokens[3] = 1;
  show(fastrnn_process_tokens(of_two_directions, tokens, 5, output, &error));
  fastrnn_process_tokens(of_two_directions, tokens, 4, output, NULL);
  show(fastrnn_process_tokens(of_two_directions, tokens, 4, output, &error));
  fastrnn_reset(of_two_directions);
  show(fastrnn_process_tokens(of_two_directions, tokens, 4, output, &error));
  fastrnn_stream_destroy(of_features);
  fastrnn_stream_destroy(of_tokens);
  fastrnn_stream_destroy(of_two_directions);
  fastrnn_stream_destroy(NULL);
  return EXIT_SUCCESS;
}
