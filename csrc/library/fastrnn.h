/* fastrnn: recurrent layers without Python, from files that fastrnn.export writes.
 *
 *   fastrnn_model* model;
 *   fastrnn_stream* stream;
 *   fastrnn_error error;
 *   if (fastrnn_load("model.safetensors", &model, &error)) return fail(error.text);
 *   if (fastrnn_stream_create(model, 1, 16, &stream, &error)) return fail(error.text);
 *   while (read(input)) fastrnn_process(stream, input, 16, output, &error);
 *
 * A model does not change once it is loaded: any number of streams, on any threads, share it. A stream belongs to one
 * thread at a time. It holds the state of its rows from call to call, and all memory that its calls need: those that
 * are marked "real time" allocate nothing, lock nothing and make no system call.
 *
 * There is no global state but the choice of the processor's instruction set, made when the first model is loaded. Of
 * those that the processor has, the environment variable FASTRNN_CPU_ISA forces another one (baseline, avx2, avx512,
 * avx512bf16, amx).
 *
 * Sequences lie step by step: [steps][rows][features], rows being sequences side by side. Every function that may fail
 * returns a status and, where `error` is not null, leaves a text of what was expected and what came; a call that fails
 * changes nothing.
 *
 * The file is in the format safetensors (https://huggingface.co/docs/safetensors). Its __metadata__ has "fastrnn": "1"
 * and the operations that are applied one after another, under "0", "1", ...; tensors are named after them:
 *
 *   embedding              0.weight [V, F]: row of the token
 *   linear                 0.weight [O, I], 0.bias [O] or none
 *   CELL directions=D      CELL is rnn_tanh, rnn_relu, lstm, gru or cifg, D is 1 or 2. 0.weight_ih [G*H, I],
 *                          0.weight_hh [G*H, P], 0.bias_ih and 0.bias_hh [G*H] or neither, 0.weight_hr [P, H] where the
 *                          output is projected, else P is H; of the second direction with _reverse behind the names.
 *                          Gates are stacked in the order of torch.nn: LSTM i f g o, GRU r z n; cifg has f g o
 *   relu, tanh, sigmoid
 *   softmax                over the features
 *   affine                 0.scale [F], 0.shift [F]: x * scale + shift
 *   max, mean              over all steps so far
 *   last directions=D      the last step; with 2 directions, of the second half of the features the first step
 *
 * Tensors are little-endian F32; weights of embedding, linear and of cells without a projection may be BF16, or I8, an
 * integer of at most 127 times an F32 scale for its row: 0.scale, of cells 0.scale_ih and 0.scale_hh.
 */
#ifndef FASTRNN_H
#define FASTRNN_H

#include <stddef.h>
#include <stdint.h>

#define FASTRNN_VERSION "0.1.0"

#if defined(__GNUC__)
#define FASTRNN_API __attribute__((visibility("default")))
#else
#define FASTRNN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fastrnn_status {
  FASTRNN_OK = 0,
  FASTRNN_BAD_ARGUMENT = 1, /* an argument does not fit the model or the stream */
  FASTRNN_NO_FILE = 2,      /* a file cannot be read */
  FASTRNN_BAD_FILE = 3,     /* a file is none of fastrnn's, or damaged */
  FASTRNN_NO_MEMORY = 4,
  FASTRNN_NO_RESET = 5, /* a model with a second direction was given another sequence without fastrnn_reset */
  FASTRNN_NO_ISA = 6    /* FASTRNN_CPU_ISA names what the processor or this build lacks */
} fastrnn_status;

typedef struct fastrnn_error {
  char text[256];
} fastrnn_error;

typedef struct fastrnn_model fastrnn_model;
typedef struct fastrnn_stream fastrnn_stream;

/* Of the library; FASTRNN_VERSION is that of the header. */
FASTRNN_API const char* fastrnn_version(void);

/* The model in a file, or in memory, which it does not refer to afterwards. */
FASTRNN_API fastrnn_status fastrnn_load(const char* path, fastrnn_model** model, fastrnn_error* error);
FASTRNN_API fastrnn_status fastrnn_load_memory(const void* bytes, size_t size, fastrnn_model** model,
                                               fastrnn_error* error);
/* Streams that it has keep what they need. Null is nothing. */
FASTRNN_API void fastrnn_model_destroy(fastrnn_model* model);

/* The instruction set that it runs on. */
FASTRNN_API const char* fastrnn_model_isa(const fastrnn_model* model);
/* Whether its input are tokens, for fastrnn_process_tokens, not features. */
FASTRNN_API int fastrnn_model_takes_tokens(const fastrnn_model* model);
/* Features of an input row, or the number of tokens; features of an output row. */
FASTRNN_API int64_t fastrnn_model_inputs(const fastrnn_model* model);
FASTRNN_API int64_t fastrnn_model_outputs(const fastrnn_model* model);
/* Whether an output is one step, over all steps so far (max, mean, last), not one for each step. */
FASTRNN_API int fastrnn_model_pools(const fastrnn_model* model);
/* Whether it has a second direction, which reads a sequence from its end: then a call takes a whole sequence, and the
 * next one wants fastrnn_reset or fastrnn_set_state before. */
FASTRNN_API int fastrnn_model_takes_whole_sequences(const fastrnn_model* model);

/* A stream for so many rows, in its initial state, zeros. Calls may have any number of steps and are fastest up to
 * `steps`, by which its memory goes; of a model that takes whole sequences these are the most that a call has. */
FASTRNN_API fastrnn_status fastrnn_stream_create(const fastrnn_model* model, int64_t rows, int64_t steps,
                                                 fastrnn_stream** stream, fastrnn_error* error);
/* Null is nothing. */
FASTRNN_API void fastrnn_stream_destroy(fastrnn_stream* stream);

/* Real time. The next steps: input [steps][rows][inputs] to output [steps][rows][outputs], or [rows][outputs] where the
 * model pools. Any division of a sequence into calls gives the same bits. On a processor with AMX the first call on a
 * thread has the system make room for the tiles. */
FASTRNN_API fastrnn_status fastrnn_process(fastrnn_stream* stream, const float* input, int64_t steps, float* output,
                                           fastrnn_error* error);
/* Real time. The same for tokens [steps][rows], from 0 to inputs - 1. */
FASTRNN_API fastrnn_status fastrnn_process_tokens(fastrnn_stream* stream, const int32_t* tokens, int64_t steps,
                                                  float* output, fastrnn_error* error);

/* Real time. The state is so many floats: of each layer in turn, h [directions][rows][outputs] and, where the cell has
 * one, c [directions][rows][units]; of max, mean and last, what they give [rows][features] and the number of steps. */
FASTRNN_API int64_t fastrnn_state_size(const fastrnn_stream* stream);
FASTRNN_API void fastrnn_get_state(const fastrnn_stream* stream, float* state);
FASTRNN_API void fastrnn_set_state(fastrnn_stream* stream, const float* state);
/* Real time. Back to the initial state. */
FASTRNN_API void fastrnn_reset(fastrnn_stream* stream);

#ifdef __cplusplus
}
#endif

#endif
