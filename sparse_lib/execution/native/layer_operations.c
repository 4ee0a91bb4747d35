/* The operations of layers that have no kernel, as TensorFlow sees them: names, inputs, checks, outputs. */
#include "layers.h"
#include "operation.h"

#include <stdlib.h>

/* The attributes of max pooling. */
typedef struct {
  int64_t kernel[2], stride[2];
  unsigned char is_same;
} Pooling;

enum { MOST_OUTPUTS = 3, MOST_AXES = 16 };

static int read_images(Call *call, const Pooling *pooling, Convolution *c) {
  const TF_Tensor *x = call->inputs[0];
  if (TF_NumDims(x) != 4) return refuse(call, "x must be of shape [batch, height, width, channels].");
  *c = (Convolution){.images = TF_Dim(x, 0), .height = TF_Dim(x, 1), .width = TF_Dim(x, 2), .channels = TF_Dim(x, 3)};
  int64_t in[2] = {c->height, c->width}, out[2];
  for (int i = 0; i < 2; i++) {
    c->kernel[i] = pooling->kernel[i];
    c->stride[i] = pooling->stride[i];
    c->dilation[i] = 1;
    out[i] = count_windows(in[i], c->kernel[i], c->stride[i], pooling->is_same, &c->before[i]);
  }
  c->out_height = out[0];
  c->out_width = out[1];
  c->outputs = c->channels;
  return 1;
}

static int check_shape(Call *call, int input, const int64_t *shape, int rank, const char *message) {
  const TF_Tensor *tensor = call->inputs[input];
  int is_equal = TF_NumDims(tensor) == rank;
  for (int i = 0; is_equal && i < rank; i++) is_equal = TF_Dim(tensor, i) == shape[i];
  return is_equal ? 1 : refuse(call, message);
}


typedef enum { MAXIMA, SCATTERED, GATHERED } PoolOutput;

static int run_pool(Call *call, const Pooling *pooling, PoolOutput wanted) {
  Convolution c;
  if (!read_images(call, pooling, &c)) return 0;
  int64_t in[4] = {c.images, c.height, c.width, c.channels}, out[4] = {c.images, c.out_height, c.out_width, c.channels};
  if (wanted == SCATTERED && !check_shape(call, 1, out, 4, "dy must be of the shape of the pooled images.")) return 0;
  if (wanted == GATHERED && !check_shape(call, 1, in, 4, "u must be of the shape of x.")) return 0;
  TF_Tensor *output = allocate_output_at(call, 0, wanted == SCATTERED ? in : out, 4);
  if (!output) return 0;
  const void *x = TF_TensorData(call->inputs[0]), *other = wanted == MAXIMA ? NULL : TF_TensorData(call->inputs[1]);
  size_t size = size_of(call->inputs[0]);
  if (wanted == MAXIMA) find_maxima(&c, size, x, TF_TensorData(output));
  if (wanted == SCATTERED) scatter_to_maxima(&c, size, x, other, TF_TensorData(output));
  if (wanted == GATHERED) gather_from_maxima(&c, size, x, other, TF_TensorData(output));
  TF_DeleteTensor(output);
  return 1;
}

/* Reads the sizes of x, and checks that the inputs from `first` to the last are vectors of its channels, but for
   epsilon; zero stands for no epsilon. */
static int read_rows(Call *call, int first, int epsilon, Normalization *n) {
  const TF_Tensor *x = call->inputs[0];
  int rank = TF_NumDims(x);
  if (rank < 1 || rank > MOST_AXES) return refuse(call, "x must have from 1 to 16 axes.");
  *n = (Normalization){.rows = 1, .channels = TF_Dim(x, rank - 1), .size = size_of(x)};
  for (int i = 0; i < rank - 1; i++) n->rows *= TF_Dim(x, i);
  for (int i = first; i < call->count; i++)
    if (i != epsilon && !check_shape(call, i, &n->channels, 1, "There must be one number for each channel of x."))
      return 0;
  if (epsilon && TF_NumDims(call->inputs[epsilon])) return refuse(call, "epsilon must be a scalar.");
  return 1;
}

/* Allocates outputs: `like_x` of the shape of x, and after them vectors of its channels. */
static int allocate_all(Call *call, const Normalization *n, int like_x, int vectors, TF_Tensor **outputs) {
  int64_t shape[MOST_AXES];
  int rank = TF_NumDims(call->inputs[0]);
  for (int i = 0; i < rank; i++) shape[i] = TF_Dim(call->inputs[0], i);
  for (int i = 0; i < like_x + vectors; i++) {
    outputs[i] = i < like_x ? allocate_output_at(call, i, shape, rank) : allocate_output_at(call, i, &n->channels, 1);
    if (!outputs[i]) return 0;
  }
  return 1;
}

static int finish(Call *call, int has_failed, TF_Tensor **outputs) {
  for (int i = 0; i < MOST_OUTPUTS; i++)
    if (outputs[i]) TF_DeleteTensor(outputs[i]);
  int is_told = TF_GetCode(call->status) != TF_OK;
  return has_failed && !is_told ? fail(call, TF_RESOURCE_EXHAUSTED, "There is not enough memory for a layer.") : 1;
}

static int run_normalize(Call *call) {
  Normalization n;
  if (!read_rows(call, 1, 3, &n)) return 0;
  TF_Tensor *outputs[MOST_OUTPUTS] = {NULL};
  const void *in[MOST_INPUTS];
  for (int i = 0; i < call->count; i++) in[i] = TF_TensorData(call->inputs[i]);
  n.gamma = in[1];
  n.beta = in[2];
  n.epsilon = in[3];
  int has_failed = !allocate_all(call, &n, 1, 2, outputs);
  if (!has_failed)
    has_failed = normalize(&n, in[0], TF_TensorData(outputs[0]), TF_TensorData(outputs[1]), TF_TensorData(outputs[2]));
  return finish(call, has_failed, outputs);
}

static int run_normalize_gradient(Call *call) {
  Normalization n;
  int64_t shape[MOST_AXES];
  if (!read_rows(call, 2, 5, &n)) return 0;
  int rank = TF_NumDims(call->inputs[0]);
  for (int i = 0; i < rank; i++) shape[i] = TF_Dim(call->inputs[0], i);
  if (!check_shape(call, 1, shape, rank, "dy must be of the shape of x.")) return 0;
  TF_Tensor *outputs[MOST_OUTPUTS] = {NULL};
  const void *in[MOST_INPUTS];
  for (int i = 0; i < call->count; i++) in[i] = TF_TensorData(call->inputs[i]);
  n.gamma = in[4];
  n.epsilon = in[5];
  int has_failed = !allocate_all(call, &n, 1, 2, outputs);
  if (!has_failed)
    has_failed = differentiate_normalization(&n, in[0], in[1], in[2], in[3], in[6], in[7], TF_TensorData(outputs[0]),
                                             TF_TensorData(outputs[1]), TF_TensorData(outputs[2]));
  return finish(call, has_failed, outputs);
}

static int run_sum(Call *call) {
  Normalization n;
  if (!read_rows(call, 1, 0, &n)) return 0;
  TF_Tensor *outputs[MOST_OUTPUTS] = {NULL};
  int has_failed = !allocate_all(call, &n, 0, 1, outputs);
  if (!has_failed)
    has_failed = sum_over_rows(n.rows, n.channels, n.size, TF_TensorData(call->inputs[0]), TF_TensorData(outputs[0]));
  return finish(call, has_failed, outputs);
}

static int run_add(Call *call) {
  Normalization n;
  if (!read_rows(call, 1, 0, &n)) return 0;
  TF_Tensor *outputs[MOST_OUTPUTS] = {NULL};
  int has_failed = !allocate_all(call, &n, 1, 0, outputs);
  if (!has_failed)
    has_failed = add_to_rows(n.rows, n.channels, n.size, TF_TensorData(call->inputs[0]),
                             TF_TensorData(call->inputs[1]), TF_TensorData(outputs[0]));
  return finish(call, has_failed, outputs);
}

#define COMPUTE(name, call_of, inputs)                          \
  static void name(void *kernel, TF_OpKernelContext *context) { \
    (void)kernel;                                               \
    Call call;                                                  \
    if (begin(&call, context, inputs)) call_of;                 \
    end(&call);                                                 \
  }
COMPUTE(compute_maxima, run_pool(&call, kernel, MAXIMA), 1)
COMPUTE(compute_scattered, run_pool(&call, kernel, SCATTERED), 2)
COMPUTE(compute_gathered, run_pool(&call, kernel, GATHERED), 2)
COMPUTE(compute_normalize, run_normalize(&call), 4)
COMPUTE(compute_normalize_gradient, run_normalize_gradient(&call), 8)
COMPUTE(compute_sum, run_sum(&call), 1)
COMPUTE(compute_add, run_add(&call), 2)

static void *create_pooling(TF_OpKernelConstruction *context) {
  TF_Status *status = TF_NewStatus();
  Pooling *p = calloc(1, sizeof *p);
  const char *names[2] = {"pool_size", "strides"};
  int64_t *pairs[2] = {p->kernel, p->stride};
  for (int i = 0; i < 2 && TF_GetCode(status) == TF_OK; i++)
    TF_OpKernelConstruction_GetAttrInt64List(context, names[i], pairs[i], 2, status);
  if (TF_GetCode(status) == TF_OK) TF_OpKernelConstruction_GetAttrBool(context, "same", &p->is_same, status);
  int is_sound = 1;
  for (int i = 0; i < 2; i++)
    for (int axis = 0; axis < 2; axis++) is_sound &= pairs[i][axis] > 0 && pairs[i][axis] < 1 << 15;
  if (TF_GetCode(status) == TF_OK && !is_sound)
    TF_SetStatus(status, TF_INVALID_ARGUMENT, "pool_size and strides must be from 1 to 32767.");
  if (TF_GetCode(status) != TF_OK) TF_OpKernelConstruction_Failure(context, status);
  TF_DeleteStatus(status);
  return p;
}

/* An operation without attributes has no state, but TensorFlow asks for a pointer. */
static void *create_nothing(TF_OpKernelConstruction *context) {
  static char nothing;
  (void)context;
  return &nothing;
}

static void delete_nothing(void *kernel) { (void)kernel; }

/* Names of tensors end with NULL. */
static void register_operation(const char *name, const char *const *inputs, const char *const *outputs, int is_pooling,
                               void (*compute)(void *, TF_OpKernelContext *)) {
  TF_Status *status = TF_NewStatus();
  TF_OpDefinitionBuilder *builder = TF_NewOpDefinitionBuilder(name);
  TF_OpDefinitionBuilderAddAttr(builder, "T: {float, double}");
  for (; *inputs; inputs++) TF_OpDefinitionBuilderAddInput(builder, *inputs);
  for (; *outputs; outputs++) TF_OpDefinitionBuilderAddOutput(builder, *outputs);
  if (is_pooling) {
    TF_OpDefinitionBuilderAddAttr(builder, "pool_size: list(int)");
    TF_OpDefinitionBuilderAddAttr(builder, "strides: list(int)");
    TF_OpDefinitionBuilderAddAttr(builder, "same: bool");
  }
  TF_OpDefinitionBuilderSetShapeInferenceFunction(builder, leave_unknown);
  TF_RegisterOpDefinition(builder, status);
  TF_DeleteStatus(status);
  for (int type = TF_FLOAT; type <= TF_DOUBLE; type++)
    register_kernel(name, type, is_pooling ? create_pooling : create_nothing, compute,
                    is_pooling ? free : delete_nothing);
}

#define TENSORS(...) (const char *const[]){__VA_ARGS__, NULL}

__attribute__((constructor)) static void register_layer_operations(void) {
  register_operation("SparseLibMaxPool", TENSORS("x: T"), TENSORS("y: T"), 1, compute_maxima);
  register_operation("SparseLibMaxPoolScatter", TENSORS("x: T", "dy: T"), TENSORS("dx: T"), 1, compute_scattered);
  register_operation("SparseLibMaxPoolGather", TENSORS("x: T", "u: T"), TENSORS("y: T"), 1, compute_gathered);
  register_operation("SparseLibNormalize", TENSORS("x: T", "gamma: T", "beta: T", "epsilon: T"),
                     TENSORS("y: T", "mean: T", "variance: T"), 0, compute_normalize);
  register_operation(
      "SparseLibNormalizeGradient",
      TENSORS("x: T", "dy: T", "mean: T", "variance: T", "gamma: T", "epsilon: T", "dmean: T", "dvariance: T"),
      TENSORS("dx: T", "dgamma: T", "dbeta: T"), 0, compute_normalize_gradient);
  register_operation("SparseLibSumRows", TENSORS("x: T"), TENSORS("sums: T"), 0, compute_sum);
  register_operation("SparseLibAddToRows", TENSORS("x: T", "bias: T"), TENSORS("y: T"), 0, compute_add);
}
