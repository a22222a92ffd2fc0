{{- define "melo.name" -}}
{{- $name := printf "%s-%s" .Release.Name .Chart.Name -}}
{{- if contains .Chart.Name .Release.Name -}}{{- $name = .Release.Name -}}{{- end -}}
{{- $name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "melo.secret" -}}
{{- .Values.secret.existing | default (include "melo.name" .) -}}
{{- end }}

{{- /* The labels that a part's pods are selected by. Takes (list $ part). */}}
{{- define "melo.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: melo
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "melo.labels" -}}
{{- $root := index . 0 -}}
{{ include "melo.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- end }}

{{- /* What every pod has, but for its containers. Takes (list $ settings). */}}
{{- define "melo.pod" -}}
{{- $root := index . 0 -}}{{- $own := index . 1 -}}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- with $own.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $own.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir: {}
  - name: home
    emptyDir: {}
  - name: models
    {{- if $root.Values.models.existingClaim }}
    persistentVolumeClaim: {claimName: {{ $root.Values.models.existingClaim }}}
    {{- else }}
    emptyDir: {}
    {{- end }}
{{- end }}

{{- /* What every container has, but for name, image, command and probes. */}}
{{- define "melo.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: tmp, mountPath: /tmp}
  - {name: home, mountPath: /home/melo}
  - {name: models, mountPath: /models}
env:
  - name: MELO_DATABASE_URL
    valueFrom: {secretKeyRef: {name: {{ include "melo.secret" . }}, key: database-url}}
  - name: MELO_REDIS_URL
    valueFrom: {secretKeyRef: {name: {{ include "melo.secret" . }}, key: redis-url}}
  - name: MELO_STOP_SECONDS
    value: {{ .Values.stopSeconds | quote }}
  {{- range $name, $value := .Values.env }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
{{- end }}

{{- /* The operator's key, for programs that check keys. */}}
{{- define "melo.apiKey" -}}
- name: MELO_API_KEY
  valueFrom: {secretKeyRef: {name: {{ include "melo.secret" . }}, key: api-key}}
{{- end }}

{{- /* What writes events signs them. */}}
{{- define "melo.signingKey" -}}
- name: MELO_SIGNING_KEY
  valueFrom: {secretKeyRef: {name: {{ include "melo.secret" . }}, key: signing-key}}
{{- end }}

{{- /* Pods stop one at a time when nodes are drained. Takes (list $ part name). */}}
{{- define "melo.disruption" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ index . 2 }}
  labels: {{- include "melo.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels: {{- include "melo.selector" . | nindent 6 }}
{{- end }}
